//! Stub
use crate::{args::Options,error::Error,report::Report};
/// x
pub fn run(_: &Options) -> Result<Report, Error> { Err(Error::Usage("stub".into())) }
