//! Storage from outside: what is appended to streams is in the files, in order and readable, whatever happens.

mod copies;
mod directory;
mod faults;
mod files;
mod readers;
mod recovery;
mod room;
mod support;
