//! Which of several coordinators leads.
//!
//! The leader holds one key of the store, [`KEY`], and has it removed when it does not renew its hold in time.
//! [`timing`] decides when to renew and when the hold may have ended; it knows neither store nor clock. [`Candidate`]
//! runs for the lead, [`Leadership`] keeps it, [`fenced`] lets only the one who leads write, [`Leaders`] tells
//! followers who does.
//!
//! Two things keep a coordinator that was deposed from doing harm. By its own clock it stops before anybody else can
//! have taken over. And whatever its clock says, each of its writes is carried out only while the key is still its
//! own, so that even one that was suspended between looking at the clock and writing changes nothing.

mod candidate;
pub mod clock;
mod fenced;
mod leadership;
mod record;
mod timing;

pub use candidate::Candidate;
pub use leadership::Leadership;
pub use record::{KEY, Leader, Leaders};
