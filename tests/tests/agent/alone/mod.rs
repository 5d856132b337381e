//! Tests that have the machine for themselves: they send as fast as it goes, say how soon something has to happen, or
//! see every new interface there is, other tests' too.

mod changes;
mod files;
mod interfaces_found;
mod interfaces_new;
mod reliability_end;
mod reliability_load;
mod reliability_many;
mod restart;
