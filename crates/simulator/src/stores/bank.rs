//! The payment processor: each payment is named by its saga, and whatever is repeated changes nothing.

use chrono::{DateTime, Utc};
use domain::{ids::SagaId, money::Cost};
use ports::Clock;
use std::{
    collections::BTreeMap,
    sync::{Mutex, MutexGuard, PoisonError},
};
use token_service::{Paid, PaymentCall};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PaymentStatus {
    Authorised,
    Declined,
    Captured,
    /// Never captured, and never will be.
    Voided,
    /// Captured, and given back.
    GivenBack,
}

#[derive(Clone, Copy, Debug)]
pub struct Payment {
    pub status: PaymentStatus,
    /// `None` where only a void was ever heard of it.
    pub price: Option<Cost>,
    pub first_heard_of: DateTime<Utc>,
}

pub struct Bank {
    payments: Mutex<BTreeMap<SagaId, Payment>>,
    clock: Clock,
}

impl Bank {
    pub fn new(clock: Clock) -> Self {
        Self { payments: Mutex::default(), clock }
    }

    fn payments(&self) -> MutexGuard<'_, BTreeMap<SagaId, Payment>> {
        self.payments.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub fn every_payment(&self) -> BTreeMap<SagaId, Payment> {
        self.payments().clone()
    }

    /// `pays`: whether the payer can, should this be the first that is heard of the payment.
    pub fn answer(&self, saga: SagaId, call: PaymentCall, pays: bool) -> Paid {
        use PaymentStatus::{Authorised, Captured, Declined, GivenBack, Voided};
        let mut payments = self.payments();
        let unheard_of = |status, price| Payment { status, price, first_heard_of: self.clock.now() };
        let payment = match call {
            PaymentCall::Authorise(price) => {
                payments.entry(saga).or_insert_with(|| unheard_of(if pays { Authorised } else { Declined }, Some(price)))
            }
            PaymentCall::Void => payments.entry(saga).or_insert_with(|| unheard_of(Voided, None)),
            PaymentCall::Capture => match payments.get_mut(&saga) {
                Some(payment) => payment,
                None => return Paid::Impossible,
            },
        };
        match (call, payment.status) {
            (PaymentCall::Authorise(price), Authorised | Captured) if payment.price == Some(price) => Paid::Done,
            (PaymentCall::Capture, Authorised | Captured) => {
                payment.status = Captured;
                Paid::Done
            }
            (PaymentCall::Void, status) => {
                payment.status = match status {
                    Authorised | Voided => Voided,
                    Captured | GivenBack => GivenBack,
                    Declined => Declined,
                };
                Paid::Done
            }
            (_, Declined) => Paid::Declined,
            _ => Paid::Impossible,
        }
    }
}
