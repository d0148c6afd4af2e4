//! An evaluation by several replicas: each looks at images of its own, and nobody needs the others until all are done.

use std::panic::resume_unwind;
use std::path::Path;
use std::sync::OnceLock;
use std::thread;

use crate::data::loader::Source;
use crate::error::{BadSample, Error, Result};

/// Which of the replicas one is.
#[derive(Debug, Clone, Copy)]
pub(super) struct Part<'a> {
    pub(super) rank: usize,
    pub(super) replicas: usize,
    /// What ended one of them.
    failure: &'a OnceLock<Error>,
}

impl<'a> Part<'a> {
    /// Whether anybody wants this replica's result: not once another one has failed.
    pub(super) fn is_wanted(&self) -> bool {
        self.failure.get().is_none()
    }

    /// This replica's images.
    pub(super) fn of(self, source: &'a dyn Source) -> Dealt<'a> {
        Dealt { source, part: self }
    }
}

/// What `work` gives on each of `backends`, by rank, each on a thread of its own. Errors with the first failure.
pub(super) fn on_each<B: Sync, T: Send>(
    backends: &[B],
    work: impl Fn(Part<'_>, &B) -> Result<T> + Sync,
) -> Result<Vec<T>> {
    let failure = OnceLock::new();
    let replicas = backends.len();
    let found: Vec<T> = thread::scope(|scope| {
        let start = |(rank, backend)| {
            let part = Part {
                rank,
                replicas,
                failure: &failure,
            };
            let (work, failure) = (&work, &failure);
            let life = move || {
                work(part, backend).map_err(|error| {
                    // The first one counts: others may fail because of it.
                    let _ = failure.set(error);
                })
            };
            thread::Builder::new()
                .name(format!("replica {rank}"))
                .spawn_scoped(scope, life)
                .map_err(|error| {
                    let _ = failure.set(Error::io("start", Path::new("a replica's thread"))(error));
                })
        };
        let threads: Vec<_> = backends.iter().enumerate().map(start).collect();
        let ended = threads.into_iter().flatten().map(|thread| thread.join());
        ended
            .filter_map(|outcome| outcome.unwrap_or_else(|panic| resume_unwind(panic)).ok())
            .collect()
    });
    failure.into_inner().map_or(Ok(found), Err)
}

/// The images of one replica: of every `replicas` consecutive ones, one.
#[derive(Debug)]
pub(super) struct Dealt<'a> {
    source: &'a dyn Source,
    part: Part<'a>,
}

impl Dealt<'_> {
    fn index(&self, sample: usize) -> usize {
        sample * self.part.replicas + self.part.rank
    }
}

impl Source for Dealt<'_> {
    fn len(&self) -> usize {
        let (all, part) = (self.source.len(), self.part);
        all.saturating_sub(part.rank).div_ceil(part.replicas)
    }

    fn label(&self, sample: usize) -> u32 {
        self.source.label(self.index(sample))
    }

    fn read<'a>(&'a self, sample: usize, scratch: &'a mut Vec<u8>) -> Result<&'a [u8]> {
        if !self.part.is_wanted() {
            return Err(Error::Replica {
                rank: self.part.rank,
                message: "ended because another replica failed".into(),
                exit: 1,
            });
        }
        self.source.read(self.index(sample), scratch)
    }

    fn confirm(&self, sample: usize) -> Result<()> {
        self.source.confirm(self.index(sample))
    }

    fn bad_sample(&self, sample: usize, reason: String) -> BadSample {
        self.source.bad_sample(self.index(sample), reason)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::eval::Files;

    #[test]
    fn every_image_is_dealt_to_one_replica_in_turn() {
        let names: Vec<String> = (0..5).map(|image| image.to_string()).collect();
        let files = Files::new(names.iter().map(Into::into).collect(), std::io::empty()).unwrap();
        let dealt = on_each(&[(); 7], |part, ()| {
            let own = part.of(&files);
            let name = |sample| own.bad_sample(sample, String::new()).shard;
            Ok((0..own.len()).map(name).collect::<Vec<_>>())
        });
        let dealt: Vec<String> = dealt.unwrap().concat();
        assert_eq!(dealt, names, "two of seven replicas have nothing to do");
        let three = on_each(&[(); 3], |part, ()| Ok(part.of(&files).len()));
        assert_eq!(three.unwrap(), [2, 2, 1]);
    }

    #[test]
    fn the_first_failure_ends_the_others() {
        let files = Files::new(vec!["no such file".into(); 4], std::io::empty()).unwrap();
        let ended = on_each(&[(); 4], |part, ()| {
            if part.rank == 2 {
                return Err::<(), _>(Error::Usage("the reason".into()));
            }
            while part.is_wanted() {
                thread::yield_now();
            }
            part.of(&files).read(0, &mut Vec::new()).map(drop)
        });
        assert_eq!(ended.unwrap_err().to_string(), "the reason");
    }
}
