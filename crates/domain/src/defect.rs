//! Defects that the simulator puts back, one at a time, to see that it finds them. Without the feature `defects`, which only tests turn
//! on, none of them exists: [`is_back`] is constantly false.

/// What somebody could get wrong here, at the place where it is right.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Defect {
    /// A hold or consume does not look at the balance.
    Overspend,
    /// A settled charge is settled again.
    SettledTwice,
    /// A released hold is released again.
    ReleasedTwice,
    /// The sweeper ends a hold that was settled after it looked.
    ExpiresSettled,
    /// A settle leaves what was held, held.
    HoldNotReturned,
    /// What no balance covers is owed by nobody.
    DebtForgotten,
    /// A settle after the expiry is answered and not booked.
    LateSettleLost,
    /// A refund does not look at what is left of its charge.
    RefundAboveRest,
    /// A refund that is asked for again is done again.
    RefundedTwice,
    /// A refund gives nothing back.
    RefundNotReturned,
    /// Nobody looks for refunds that the totals have counted.
    RefundsNotCompleted,
    /// Totals by user miss the hours.
    UserTotalsForgotten,
    /// The answers of a group commit go to the wrong requests.
    AnswersMixedUp,
    /// A commit whose answer was lost is called failed.
    UnknownTakenForFailure,
    /// Idempotency keys are not looked at.
    KeyIgnored,
    /// Rows are marked as published when they are sent.
    MarkedBeforeAcknowledged,
    /// The relay goes on behind a run that failed.
    FailedRunSkipped,
    /// The projection applies whatever number comes next.
    NoDensityRule,
    /// The projection applies a number again.
    DuplicatesCounted,
    /// A total that was stored ahead of its shard's state counts events again.
    TotalsNotNumbered,
    /// Totals on their way to the store are forgotten, and read from there too early.
    CellsForgottenInFlight,
    /// Nobody looks for the end of a shard that the log lost.
    TailsNotChecked,
    /// The usage store keeps what lands last, not what has the larger number.
    WallClockTimestamps,
    /// A shard's state is stored before its totals.
    StateBeforeTotals,
    /// The payment processor is told another name of the payment at each call.
    PaymentNotNamedBySaga,
    /// An authorisation whose answer was lost is called done, and the tokens are allocated.
    AllocatedUnpaid,
    /// The payment is called captured without asking.
    NeverCaptured,
    /// A capture whose answer was lost is called refused.
    LostCaptureTakenForRefusal,
    /// A void whose answer was lost is called done.
    VoidForgotten,
    /// The tokens of a purchase that fails are left to its payer.
    TokensNotTakenBack,
    /// Who resumes a purchase gives its tokens again.
    TokensGivenAgainByResuming,
    /// Buckets let pass what they have no room for.
    FullBucketsIgnored,
    /// Nobody is told that the store of the buckets was replaced.
    LossOfBucketsNotNoticed,
    /// The end of a hold, asked for again, gives back to its buckets again.
    GivenBackTwice,
    /// The projection goes on in a generation that is the live one no more.
    PointerNotFollowed,
    /// What a replay of a part leaves out is not in its generation.
    RestNotCopied,
    /// A replay reads what the live generation has not stored.
    ReplayedBeyondLive,
    /// A total that was copied counts again what it was copied with.
    CopiedTotalsCountedAgain,
}

impl Defect {
    pub const ALL: [Self; 38] = [
        Self::Overspend,
        Self::SettledTwice,
        Self::ReleasedTwice,
        Self::ExpiresSettled,
        Self::HoldNotReturned,
        Self::DebtForgotten,
        Self::LateSettleLost,
        Self::RefundAboveRest,
        Self::RefundedTwice,
        Self::RefundNotReturned,
        Self::RefundsNotCompleted,
        Self::UserTotalsForgotten,
        Self::AnswersMixedUp,
        Self::UnknownTakenForFailure,
        Self::KeyIgnored,
        Self::MarkedBeforeAcknowledged,
        Self::FailedRunSkipped,
        Self::NoDensityRule,
        Self::DuplicatesCounted,
        Self::TotalsNotNumbered,
        Self::CellsForgottenInFlight,
        Self::TailsNotChecked,
        Self::WallClockTimestamps,
        Self::StateBeforeTotals,
        Self::PaymentNotNamedBySaga,
        Self::AllocatedUnpaid,
        Self::NeverCaptured,
        Self::LostCaptureTakenForRefusal,
        Self::VoidForgotten,
        Self::TokensNotTakenBack,
        Self::TokensGivenAgainByResuming,
        Self::FullBucketsIgnored,
        Self::LossOfBucketsNotNoticed,
        Self::GivenBackTwice,
        Self::PointerNotFollowed,
        Self::RestNotCopied,
        Self::ReplayedBeyondLive,
        Self::CopiedTotalsCountedAgain,
    ];
}

#[cfg(feature = "defects")]
std::thread_local! {
    static BACK: std::cell::Cell<Option<Defect>> = const { std::cell::Cell::new(None) };
}

/// Puts a defect back into everything that this thread runs, or takes it out again.
#[cfg(feature = "defects")]
pub fn put_back(defect: Option<Defect>) {
    BACK.set(defect);
}

#[cfg(feature = "defects")]
pub fn is_back(defect: Defect) -> bool {
    BACK.get() == Some(defect)
}

#[cfg(not(feature = "defects"))]
pub const fn is_back(_: Defect) -> bool {
    false
}
