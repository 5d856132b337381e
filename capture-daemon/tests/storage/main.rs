//! Storage from outside: what is appended to streams is in the files, in order and readable, whatever happens.

#[cfg(test)]
mod copies;
#[cfg(test)]
mod directory;
#[cfg(test)]
mod faults;
#[cfg(test)]
mod files;
#[cfg(test)]
mod readers;
#[cfg(test)]
mod recovery;
#[cfg(test)]
mod removal;
#[cfg(test)]
mod room;
#[cfg(test)]
mod support;
