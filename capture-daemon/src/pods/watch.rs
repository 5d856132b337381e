//! Which addresses the API server says this node's pods have, and since when.
//!
//! An address alone proves little: it is given to another pod once its owner is gone, and the API server tells of that
//! late, or not at all while it is away. So a claim counts only while the watch is live, while one pod alone makes it,
//! and for interfaces that were there before it was heard.

use std::{
    collections::HashMap,
    net::IpAddr,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Instant,
};

/// What a pod's status says of its addresses.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PodClaim {
    /// The pod's UID.
    pub uid: String,
    /// Something that is another one when the pod's sandbox is: the ids of its containers, one after the other.
    pub sandbox: String,
    /// `status.podIPs`.
    pub addresses: Vec<IpAddr>,
}

/// The claims of all pods of this node. Clones share them. Whoever watches pods tells them here.
#[derive(Clone, Debug, Default)]
pub struct PodWatch(Arc<Mutex<State>>);

#[derive(Debug, Default)]
struct State {
    live: bool,
    claims: HashMap<IpAddr, Vec<Claim>>,
}

#[derive(Clone, Debug)]
struct Claim {
    uid: String,
    sandbox: String,
    since: Instant,
}

impl PodWatch {
    /// Whether what was told is kept up to date: false from an error of the watch until the next complete list.
    pub fn set_live(&self, live: bool) {
        self.lock().live = live;
    }

    /// These are all pods of this node that have their addresses: none that is being deleted or has ended, and none
    /// in the host's network. To be told again whenever one changes; what did not change keeps its age.
    pub fn told(&self, pods: impl IntoIterator<Item = PodClaim>) {
        self.told_at(pods, Instant::now());
    }

    fn told_at(&self, pods: impl IntoIterator<Item = PodClaim>, now: Instant) {
        let mut state = self.lock();
        let before = std::mem::take(&mut state.claims);
        for PodClaim { uid, sandbox, addresses } in pods {
            for address in addresses {
                let known = before.get(&address).and_then(|claims| {
                    claims.iter().find(|claim| claim.uid == uid && claim.sandbox == sandbox)
                });
                let since = known.map_or(now, |claim| claim.since);
                let claim = Claim { uid: uid.clone(), sandbox: sandbox.clone(), since };
                state.claims.entry(address).or_default().push(claim);
            }
        }
    }

    /// Since when that pod, and no other, has the address.
    pub(super) fn since(&self, uid: &str, address: IpAddr) -> Result<Instant, String> {
        let state = self.lock();
        if !state.live {
            return Err("the API server cannot be asked whose address it is now".into());
        }
        match state.claims.get(&address).map(Vec::as_slice) {
            Some([claim]) if claim.uid == uid => Ok(claim.since),
            Some([_, _, ..]) => Err(format!("several pods of this node have address {address}")),
            _ => Err(format!("address {address} is not the pod's any more")),
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        // A panic elsewhere leaves at worst fewer claims than there are.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    const ADDRESS: IpAddr = IpAddr::V4(std::net::Ipv4Addr::new(10, 1, 0, 5));

    fn claim(uid: &str, sandbox: &str) -> PodClaim {
        PodClaim { uid: uid.into(), sandbox: sandbox.into(), addresses: vec![ADDRESS] }
    }

    #[test]
    fn a_claim_is_as_old_as_its_sandbox() {
        let watch = PodWatch::default();
        watch.set_live(true);
        let first = Instant::now();
        let [second, third] = [1, 2].map(|seconds| first + Duration::from_secs(seconds));
        watch.told_at([claim("a", "1")], first);
        watch.told_at([claim("a", "1")], second);
        assert_eq!(watch.since("a", ADDRESS), Ok(first));
        watch.told_at([claim("a", "2")], third);
        assert_eq!(watch.since("a", ADDRESS), Ok(third));
    }

    #[test]
    fn an_address_of_two_pods_or_of_another_or_of_before_an_outage_proves_nothing() {
        let watch = PodWatch::default();
        watch.set_live(true);
        watch.told([claim("a", "1"), claim("b", "1")]);
        assert!(watch.since("a", ADDRESS).unwrap_err().contains("several pods"));
        watch.told([claim("b", "1")]);
        assert!(watch.since("a", ADDRESS).unwrap_err().contains("not the pod's"));
        assert!(watch.since("b", ADDRESS).is_ok());
        watch.set_live(false);
        assert!(watch.since("b", ADDRESS).unwrap_err().contains("API server"));
    }
}
