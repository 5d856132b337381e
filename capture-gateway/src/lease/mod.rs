//! The lease that says which gateway writes: `podtap-gateway` in coordination.k8s.io, as Kubernetes' own controllers
//! have theirs. Whoever holds it writes until a deadline that comes before anybody else may take it.

mod decide;

use std::time::{Duration, Instant};

use jiff::Timestamp;
use k8s_openapi::api::coordination::v1::{Lease, LeaseSpec};
use kube::api::{ObjectMeta, PostParams};
use kube::{Api, Client};
use tokio::sync::watch;
use tokio::time;
use tracing::{debug, info, warn};

use self::decide::{Seen, Step, Times, given_up};
use crate::contact::Contact;

/// The lease's name.
const NAME: &str = "podtap-gateway";

/// Until when this gateway may write; none when it does not hold the lease.
#[derive(Clone, Debug)]
pub(crate) struct Leadership(watch::Receiver<Option<Instant>>);

impl Leadership {
    /// Until when a write that begins now may take; none when there must be none. A write that is under way at that
    /// time is given up.
    pub(crate) fn until(&self) -> Option<Instant> {
        let until = (*self.0.borrow())?;
        (Instant::now() < until).then_some(until)
    }

    /// Whether this gateway may write.
    pub(crate) fn is_held(&self) -> bool {
        self.until().is_some()
    }
}

/// A candidate for the lease.
pub(crate) struct Candidate {
    leases: Api<Lease>,
    me: String,
    times: Times,
    seen: Seen,
    /// The lease as this candidate wrote it last, while it is its own.
    mine: Option<Lease>,
    until: watch::Sender<Option<Instant>>,
    contact: Contact,
}

impl Candidate {
    /// A candidate of that name for the lease in `namespace`, which tells `contact` whether it was answered.
    pub(crate) fn new(
        client: Client,
        namespace: &str,
        me: String,
        duration: Duration,
        contact: Contact,
    ) -> (Self, Leadership) {
        let (until, leadership) = watch::channel(None);
        let leases = Api::namespaced(client, namespace);
        let (times, seen) = (Times { duration }, Seen::default());
        let candidate = Self { leases, me, times, seen, mine: None, until, contact };
        (candidate, Leadership(leadership))
    }

    /// Takes the lease when it is free and renews it, until `stop` says otherwise; then gives it up.
    pub(crate) async fn run(mut self, mut stop: watch::Receiver<bool>) {
        while !*stop.borrow() {
            let begun = Instant::now();
            let turn = time::timeout(self.times.request(), self.turn()).await;
            match &turn {
                Ok(Ok(_) | Err(kube::Error::Api(_))) => self.contact.answered(Instant::now()),
                Ok(Err(_)) | Err(_) => self.contact.silent(),
            }
            match turn {
                Ok(Ok(true)) => self.hold(begun + self.times.deadline()),
                Ok(Ok(false)) => self.lose("another gateway holds it"),
                Ok(Err(error)) => debug!(%error, "the lease could not be looked after"),
                Err(_) => debug!("the lease could not be looked after in time"),
            }
            if self.until.borrow().is_some_and(|until| Instant::now() >= until) {
                self.lose("it could not be renewed in time");
            }
            // A closed channel is a stop, too.
            if let Ok(Err(_)) = time::timeout(self.times.retry(), stop.changed()).await {
                break;
            }
        }
        self.give_up().await;
    }

    /// One look at the lease. True when it is this candidate's afterwards.
    async fn turn(&mut self) -> Result<bool, kube::Error> {
        // The holder knows the lease: it is as it was written last, or the next write fails.
        let lease = match self.mine.take() {
            Some(mine) => Some(mine),
            None => self.leases.get_opt(NAME).await?,
        };
        let step = self.seen.decide(&self.me, lease.as_ref(), self.times, Instant::now(), Timestamp::now());
        let written = match (step, lease) {
            (Step::Wait, _) | (Step::Write(_), None) => return Ok(false),
            (Step::Create(spec), _) => {
                let metadata = ObjectMeta { name: Some(NAME.to_owned()), ..ObjectMeta::default() };
                self.leases.create(&PostParams::default(), &Lease { metadata, spec: Some(spec) }).await
            }
            (Step::Write(spec), Some(lease)) => self.write(lease, spec).await,
        };
        match written {
            Ok(lease) => {
                self.mine = Some(lease);
                Ok(true)
            }
            // Somebody was faster; the next look tells who.
            Err(kube::Error::Api(status)) if status.is_conflict() || status.is_already_exists() => Ok(false),
            Err(error) => Err(error),
        }
    }

    async fn write(&self, mut lease: Lease, spec: LeaseSpec) -> Result<Lease, kube::Error> {
        // With the version that was seen, so that of two that take it one fails.
        lease.spec = Some(spec);
        self.leases.replace(NAME, &PostParams::default(), &lease).await
    }

    fn hold(&self, until: Instant) {
        if self.until.send_replace(Some(until)).is_none() {
            info!(identity = %self.me, "this gateway has the lease and writes");
        }
    }

    fn lose(&self, why: &str) {
        if self.until.send_replace(None).is_some() {
            warn!(identity = %self.me, why, "this gateway has lost the lease and writes nothing");
        }
    }

    /// Lets another gateway take over at once instead of after the lease's time.
    async fn give_up(mut self) {
        self.until.send_replace(None);
        let Some(mine) = self.mine.take() else { return };
        let spec = given_up(&mine.spec.clone().unwrap_or_default());
        match time::timeout(self.times.request(), self.write(mine, spec)).await {
            Ok(Ok(_)) => info!(identity = %self.me, "the lease is given up"),
            Ok(Err(error)) => debug!(%error, "the lease could not be given up"),
            Err(_) => debug!("the lease could not be given up in time"),
        }
    }
}
