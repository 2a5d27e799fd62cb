//! Signs what vehicles shall collect.

use anyhow::{Context as _, Result};
use convoy_cloud_core::steering::Signer;
use ring::signature::{Ed25519KeyPair, KeyPair as _};

/// The fleet's key for campaigns.
pub struct CampaignSigner {
    pair: Ed25519KeyPair,
}

impl CampaignSigner {
    /// From the seed in the data folder.
    pub fn new(seed: &[u8; 32]) -> Result<Self> {
        let pair =
            Ed25519KeyPair::from_seed_unchecked(seed).ok().context("make the key that signs campaigns")?;
        Ok(Self { pair })
    }

    /// What vehicles are configured with: 64 hex digits.
    pub fn public_key(&self) -> String {
        self.pair.public_key().as_ref().iter().map(|byte| format!("{byte:02x}")).collect()
    }

    /// Signs.
    pub fn signer(self) -> Box<Signer> {
        Box::new(move |message| {
            let signature = self.pair.sign(message);
            signature.as_ref().try_into().expect("an Ed25519 signature has 64 bytes")
        })
    }
}
