//! Signatures of browser forms: over the policy document alone (API reference, "Browser-Based Uploads Using POST (AWS
//! Signature Version 4)"; developer guide, the same with Version 2).

use holdfast_placement::directory::Directory;

use super::claim::Credential;
use super::sig_v4::{self, ALGORITHM};
use super::{
    Authenticated, Authenticator, PayloadFraming, SERVICE, TERMINAL, Trouble, does_not_match,
    sig_v2,
};
use crate::error::{Code, S3Error};

/// What the fields of a form say of its signature.
#[derive(Clone, Copy, Debug)]
pub enum FormSignature<'a> {
    V4 {
        algorithm: &'a str,
        credential: &'a str,
        date: &'a str,
        /// Hex.
        signature: &'a str,
    },
    V2 {
        access_key: &'a str,
        /// Base64.
        signature: &'a str,
    },
}

impl Authenticator {
    /// Who signed `policy`, which is the field's text in Base64. The policy itself says until when that holds.
    pub async fn authenticate_form(
        &self,
        policy: &str,
        signature: &FormSignature<'_>,
        directory: &Directory,
    ) -> Result<Authenticated, S3Error> {
        match self.check_form(policy, signature) {
            Err(Trouble::NotAtHand(access_key)) => {
                let asked = self.keys.ask(&access_key, directory).await;
                asked.map_err(crate::ops::failure::directory)?;
                self.check_form(policy, signature).map_err(Trouble::refusal)
            }
            checked => checked.map_err(Trouble::refusal),
        }
    }

    fn check_form(
        &self,
        policy: &str,
        signature: &FormSignature<'_>,
    ) -> Result<Authenticated, Trouble> {
        let entry = match *signature {
            FormSignature::V2 {
                access_key,
                signature,
            } => {
                if !self.sig_v2 {
                    return Err(super::claim::not_supported().into());
                }
                let entry = self.entry(access_key)?;
                if !sig_v2::matches(&entry.secret, policy.as_bytes(), signature) {
                    return Err(does_not_match(access_key, policy.as_bytes(), signature).into());
                }
                entry
            }
            FormSignature::V4 {
                algorithm,
                credential,
                date,
                signature,
            } => {
                if algorithm != ALGORITHM {
                    return Err(wrong("X-Amz-Algorithm", algorithm).into());
                }
                let scope = Credential::parse(credential)
                    .ok_or_else(|| wrong("X-Amz-Credential", credential))?;
                let fits = scope.region == self.region
                    && scope.service == SERVICE
                    && scope.terminal == TERMINAL
                    && scope.date.len() == 8
                    && scope.date.bytes().all(|byte| byte.is_ascii_digit());
                if !fits {
                    return Err(wrong("X-Amz-Credential", credential).into());
                }
                if !date.starts_with(scope.date) {
                    return Err(wrong("X-Amz-Date", date).into());
                }
                let entry = self.entry(scope.access_key)?;
                let key = entry.signing_key(scope.date, &self.region);
                let computed = key.sign(&[policy.as_bytes()]);
                if !sig_v4::matches(&computed, signature.as_bytes()) {
                    return Err(
                        does_not_match(scope.access_key, policy.as_bytes(), signature).into(),
                    );
                }
                entry
            }
        };
        Ok(self.admit(&entry, PayloadFraming::Unsigned))
    }
}

fn wrong(name: &str, value: &str) -> S3Error {
    S3Error::with(
        Code::InvalidArgument,
        format!("The form's field {name} is not right for this endpoint."),
    )
    .detail("ArgumentName", name)
    .detail("ArgumentValue", value)
}
