-- How alerts are posted to an endpoint: 'signed' or 'basic'.
ALTER TABLE webhook_endpoint ADD COLUMN class TEXT NOT NULL DEFAULT 'signed';
