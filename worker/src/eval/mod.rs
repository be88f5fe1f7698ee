//! stub
#![allow(missing_docs)]
use medley_common::method::*;
use medley_common::summary::Evaluation;
#[derive(Debug, thiserror::Error)]
pub enum EvalError {
    #[error("x")]
    X,
}
#[derive(Clone, Copy, Debug)]
pub enum Split {
    Valid,
    Test,
}
pub struct Evaluator<'a> {
    _s: &'a [Vec<u32>],
}
pub struct Tally {}
impl<'a> Evaluator<'a> {
    pub fn new(_p: Vec<Protocol>, s: &'a [Vec<u32>], _i: usize, _seed: u64) -> Self {
        Self { _s: s }
    }
    pub fn prepare(&mut self, _s: Split) -> Result<(), EvalError> {
        Ok(())
    }
    pub fn tally(&self, _s: Split) -> Result<Tally, EvalError> {
        Ok(Tally {})
    }
    pub fn baseline(&self, _m: MethodName, _s: Split) -> Result<Vec<Evaluation>, EvalError> {
        Ok(vec![])
    }
    pub fn write(&self, _d: &std::path::Path) -> Result<(), EvalError> {
        Ok(())
    }
}
impl Tally {
    pub fn add_batch(&mut self, _u: &[usize], _s: &[f32]) -> Result<(), EvalError> {
        Ok(())
    }
    pub fn finish(self, _s: &str, _t: u64) -> Vec<Evaluation> {
        vec![]
    }
}
