//! Requests to DynamoDB and its answers, as its API of 2012-08-10 writes them (Amazon DynamoDB API reference).

use std::borrow::Cow;
use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::attributes::{Item, Value};

/// What is asked for, of the API's operations those that this store needs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Operation {
    Delete,
    Get,
    Put,
    Query,
    Transact,
    Update,
}

impl Operation {
    /// The header `x-amz-target`.
    pub(super) const fn target(self) -> &'static str {
        match self {
            Self::Delete => "DynamoDB_20120810.DeleteItem",
            Self::Get => "DynamoDB_20120810.GetItem",
            Self::Put => "DynamoDB_20120810.PutItem",
            Self::Query => "DynamoDB_20120810.Query",
            Self::Transact => "DynamoDB_20120810.TransactWriteItems",
            Self::Update => "DynamoDB_20120810.UpdateItem",
        }
    }
}

/// A request: its operation, and of the members of all operations those that it was given.
#[derive(Debug, Clone, Serialize)]
#[serde(rename_all = "PascalCase")]
pub(super) struct Request<'r> {
    #[serde(skip)]
    pub(super) operation: Operation,
    #[serde(skip_serializing_if = "Option::is_none")]
    table_name: Option<&'r str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    key: Option<Item>,
    #[serde(skip_serializing_if = "Option::is_none")]
    item: Option<Item>,
    #[serde(skip_serializing_if = "Option::is_none")]
    consistent_read: Option<bool>,
    #[serde(skip_serializing_if = "Option::is_none")]
    projection_expression: Option<&'r str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    condition_expression: Option<Cow<'r, str>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    update_expression: Option<Cow<'r, str>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    key_condition_expression: Option<Cow<'r, str>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    filter_expression: Option<&'r str>,
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    expression_attribute_names: BTreeMap<&'r str, &'r str>,
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    expression_attribute_values: Item,
    #[serde(skip_serializing_if = "Option::is_none")]
    return_values_on_condition_check_failure: Option<&'static str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    limit: Option<i32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    scan_index_forward: Option<bool>,
    #[serde(skip_serializing_if = "Option::is_none")]
    exclusive_start_key: Option<Item>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    transact_items: Vec<Action<'r>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    client_request_token: Option<String>,
}

/// A write in a transaction.
#[derive(Debug, Clone, Serialize)]
enum Action<'r> {
    Delete(Request<'r>),
    Put(Request<'r>),
    Update(Request<'r>),
}

impl<'r> Request<'r> {
    const fn of(operation: Operation, table_name: Option<&'r str>) -> Self {
        Self {
            operation,
            table_name,
            key: None,
            item: None,
            consistent_read: None,
            projection_expression: None,
            condition_expression: None,
            update_expression: None,
            key_condition_expression: None,
            filter_expression: None,
            expression_attribute_names: BTreeMap::new(),
            expression_attribute_values: Item::new(),
            return_values_on_condition_check_failure: None,
            limit: None,
            scan_index_forward: None,
            exclusive_start_key: None,
            transact_items: Vec::new(),
            client_request_token: None,
        }
    }

    /// The item of a key, perhaps without the last writes, which costs half; or with them, [`Self::consistent`].
    pub(super) fn get(table: &'r str, key: Item) -> Self {
        Self { key: Some(key), ..Self::of(Operation::Get, Some(table)) }
    }

    /// Puts an item in place of the one with its key.
    pub(super) fn put(table: &'r str, item: Item) -> Self {
        Self { item: Some(item), ..Self::of(Operation::Put, Some(table)) }
    }

    /// Changes the item of a key.
    pub(super) fn update(table: &'r str, key: Item, expression: impl Into<Cow<'r, str>>) -> Self {
        let update_expression = Some(expression.into());
        Self { key: Some(key), update_expression, ..Self::of(Operation::Update, Some(table)) }
    }

    /// Deletes the item of a key.
    pub(super) fn delete(table: &'r str, key: Item) -> Self {
        Self { key: Some(key), ..Self::of(Operation::Delete, Some(table)) }
    }

    /// The items of a partition with keys as the condition says, with the last writes.
    pub(super) fn query(table: &'r str, condition: impl Into<Cow<'r, str>>) -> Self {
        let key_condition_expression = Some(condition.into());
        Self { key_condition_expression, ..Self::of(Operation::Query, Some(table)) }.consistent(true)
    }

    /// All of some writes or none of them. Of requests with one token within ten minutes, one is done.
    pub(super) fn transaction(writes: impl IntoIterator<Item = Self>, token: String) -> Self {
        let action = |write: Self| match write.operation {
            Operation::Delete => Action::Delete(write),
            Operation::Put => Action::Put(write),
            Operation::Update => Action::Update(write),
            Operation::Get | Operation::Query | Operation::Transact => {
                unreachable!("{:?} does not write", write.operation)
            }
        };
        let transact_items = writes.into_iter().map(action).collect();
        Self { transact_items, client_request_token: Some(token), ..Self::of(Operation::Transact, None) }
    }

    /// With the last writes, or perhaps without them.
    pub(super) fn consistent(self, is_consistent: bool) -> Self {
        Self { consistent_read: Some(is_consistent), ..self }
    }

    /// Only where this holds.
    pub(super) fn only_if(self, condition: impl Into<Cow<'r, str>>) -> Self {
        Self { condition_expression: Some(condition.into()), ..self }
    }

    /// A value in the expressions.
    pub(super) fn value(mut self, name: impl Into<Cow<'static, str>>, value: Value) -> Self {
        self.expression_attribute_values.insert(name.into(), value);
        self
    }

    /// A name in the expressions, for an attribute that is called like a word of the language.
    pub(super) fn name(mut self, name: &'r str, attribute: &'r str) -> Self {
        self.expression_attribute_names.insert(name, attribute);
        self
    }

    /// Only these attributes.
    pub(super) fn projected(self, attributes: &'r str) -> Self {
        Self { projection_expression: Some(attributes), ..self }
    }

    /// Of what is found, only this.
    pub(super) fn filtered(self, filter: &'r str) -> Self {
        Self { filter_expression: Some(filter), ..self }
    }

    /// Looks at so many items at most.
    pub(super) fn limit(self, limit: u32) -> Self {
        Self { limit: Some(i32::try_from(limit).unwrap_or(i32::MAX)), ..self }
    }

    /// The last first.
    pub(super) fn backwards(self) -> Self {
        Self { scan_index_forward: Some(false), ..self }
    }

    /// Goes on behind the key that the page before ended with.
    pub(super) fn after(self, key: Option<Item>) -> Self {
        Self { exclusive_start_key: key, ..self }
    }

    /// A condition that does not hold brings along the item because of which it does not.
    pub(super) fn telling(self) -> Self {
        Self { return_values_on_condition_check_failure: Some("ALL_OLD"), ..self }
    }
}

/// What an answer brings; an operation leaves out what is not its own.
#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub(super) struct Answer {
    /// The item of a key, where there is one.
    pub(super) item: Option<Item>,
    /// The page.
    pub(super) items: Vec<Item>,
    /// With what key the page ended, where it was not the last.
    pub(super) last_evaluated_key: Option<Item>,
}

/// What is said of a request that was not done.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct Refusal {
    /// `com.amazonaws.dynamodb.v20120810#ConditionalCheckFailedException`.
    #[serde(rename = "__type")]
    kind: String,
    #[serde(alias = "Message")]
    pub(super) message: Option<String>,
    /// The item because of which a condition did not hold, where it was asked for.
    #[serde(rename = "Item")]
    pub(super) item: Option<Item>,
    /// Of a transaction, one a write.
    #[serde(rename = "CancellationReasons")]
    pub(super) reasons: Vec<Reason>,
}

/// Why a write of a transaction was not done; `None` where it was another's fault.
#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub(super) struct Reason {
    pub(super) code: Option<String>,
}

impl Refusal {
    /// The code, without the namespace: `ConditionalCheckFailedException`.
    pub(super) fn code(&self) -> Option<&str> {
        let code = self.kind.rsplit('#').next()?;
        let code = code.split(':').next()?;
        Some(code).filter(|code| !code.is_empty())
    }
}

#[cfg(test)]
mod tests {
    use super::super::attributes::{item, number, text};
    use super::*;
    use serde_json::json;

    #[test]
    fn requests_have_the_members_they_were_given_and_no_other() {
        let put = Request::put("t", item("p", "s")).only_if("v = :v").value(":v", number(1)).telling();
        let keys = json!({"pk": {"S": "p"}, "sk": {"S": "s"}});
        let expected = json!({
            "TableName": "t",
            "Item": keys,
            "ConditionExpression": "v = :v",
            "ExpressionAttributeValues": {":v": {"N": "1"}},
            "ReturnValuesOnConditionCheckFailure": "ALL_OLD",
        });
        assert_eq!(serde_json::to_value(&put).unwrap(), expected);
        let get = Request::get("t", item("p", "s")).consistent(true).projected("#t").name("#t", "ttl");
        let expected = json!({
            "TableName": "t",
            "Key": keys,
            "ConsistentRead": true,
            "ProjectionExpression": "#t",
            "ExpressionAttributeNames": {"#t": "ttl"},
        });
        assert_eq!(serde_json::to_value(get).unwrap(), expected);
        let query = Request::query("t", "pk = :pk").value(":pk", text("p")).limit(u32::MAX).backwards();
        let expected = json!({
            "TableName": "t",
            "KeyConditionExpression": "pk = :pk",
            "ExpressionAttributeValues": {":pk": {"S": "p"}},
            "ConsistentRead": true,
            "Limit": i32::MAX,
            "ScanIndexForward": false,
            "FilterExpression": "a > :a",
            "ExclusiveStartKey": keys,
        });
        let query = query.filtered("a > :a").after(Some(item("p", "s")));
        assert_eq!(serde_json::to_value(query).unwrap(), expected);
        let update = Request::update("t", item("p", "s"), "ADD n :one").value(":one", number(1));
        let writes = [put, update, Request::delete("t", item("p", "s"))];
        let transaction = serde_json::to_value(Request::transaction(writes, "token".into())).unwrap();
        assert_eq!(transaction["ClientRequestToken"], "token");
        assert_eq!(transaction["TransactItems"][0]["Put"]["Item"], keys);
        assert_eq!(transaction["TransactItems"][1]["Update"]["UpdateExpression"], "ADD n :one");
        assert_eq!(transaction["TransactItems"][2], json!({"Delete": {"TableName": "t", "Key": keys}}));
    }

    #[test]
    fn a_refusal_is_read_with_and_without_a_namespace() {
        let refusal = |json: serde_json::Value| serde_json::from_value::<Refusal>(json).unwrap();
        let full = refusal(json!({
            "__type": "com.amazonaws.dynamodb.v20120810#TransactionCanceledException",
            "Message": "cancelled",
            "CancellationReasons": [{"Code": "None"}, {"Code": "TransactionConflict", "Message": "text"}],
        }));
        assert_eq!(
            (full.code(), full.message.as_deref()),
            (Some("TransactionCanceledException"), Some("cancelled"))
        );
        let codes: Vec<_> = full.reasons.iter().map(|reason| reason.code.as_deref().unwrap()).collect();
        assert_eq!(codes, ["None", "TransactionConflict"]);
        assert_eq!(refusal(json!({"__type": "Throttling:http"})).code(), Some("Throttling"));
        assert_eq!(refusal(json!({})).code(), None);
    }
}
