//! What happens to calls, by kind: `{"capture": {"times": 2, "lose": "answer"}}` loses the answers of the next two captures.

use serde::{Deserialize, Serialize};

#[derive(Clone, Copy, Debug)]
pub enum Call {
    Authorise,
    Capture,
    Void,
}

/// Faults of each kind of call; a kind that is not named has none.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Faults {
    authorise: Fault,
    capture: Fault,
    void: Fault,
}

#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase", deny_unknown_fields)]
pub struct Fault {
    /// How many calls it happens to.
    pub times: u32,
    pub delay_ms: u64,
    /// Answers this error, and does nothing.
    pub status: Option<u16>,
    /// The connection breaks before or after the call is done.
    pub lose: Option<Loss>,
    /// The call arrives twice.
    pub twice: bool,
    /// An authorisation is declined.
    pub decline: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Loss {
    Request,
    Answer,
}

impl Faults {
    /// The fault of the next call of this kind.
    pub fn next(&mut self, call: Call) -> Fault {
        let fault = match call {
            Call::Authorise => &mut self.authorise,
            Call::Capture => &mut self.capture,
            Call::Void => &mut self.void,
        };
        if fault.times == 0 {
            return Fault::default();
        }
        fault.times -= 1;
        fault.clone()
    }
}
