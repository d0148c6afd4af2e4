//! The rules that are checked, each with what it says and where it is written.

use std::fmt;
use std::io::Write;

/// Defines [`Rule`] with identifiers, statements and sources.
macro_rules! rules {
    ($($rule:ident, $id:literal, $says:literal, $source:literal;)+) => {
        /// Something that a correct program never does.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
        pub enum Rule {
            $(#[doc = $says] $rule,)+
        }

        impl Rule {
            /// All of them.
            pub const ALL: &[Self] = &[$(Self::$rule,)+];

            /// The name in reports.
            pub fn id(self) -> &'static str {
                match self { $(Self::$rule => $id,)+ }
            }

            /// What it says.
            pub fn says(self) -> &'static str {
                match self { $(Self::$rule => $says,)+ }
            }

            /// Where NVIDIA says it.
            pub fn source(self) -> &'static str {
                match self { $(Self::$rule => $source,)+ }
            }
        }
    };
}

rules! {
    StreamRace, "stream-race",
        "Two operations on the same memory, one of them a write, are ordered by their stream or by an event.",
        "CUDA C++ Programming Guide, 3.2.8.5 Streams: commands of different streams may run in any order or concurrently";
    BlockRace, "block-race",
        "Two threads of a block touch the same memory, one of them writing, only with a barrier in between.",
        "CUDA C++ Programming Guide, 7.6 Synchronization Functions: __syncthreads() coordinates threads of a block that access the same addresses";
    GridRace, "grid-race",
        "Two blocks of a launch touch the same global memory, one of them writing, only with atomic operations.",
        "CUDA C++ Programming Guide, 2.2.1 Thread Hierarchy: blocks are required to execute independently, in any order";
    OutOfBounds, "out-of-bounds",
        "A kernel touches only memory that is allocated.",
        "CUDA Driver API, CUDA_ERROR_ILLEGAL_ADDRESS (700): a load or store on an invalid memory address";
    UseAfterFree, "use-after-free",
        "Memory is not used after it was freed.",
        "CUDA Driver API, cuMemFree, cuMemFreeAsync: the memory must not be accessed after the free";
    Uninitialised, "uninitialised",
        "What is read has been written before.",
        "CUDA Driver API, cuMemAlloc: the memory is not cleared; compute-sanitizer initcheck";
    Misaligned, "misaligned",
        "A vector access of 2, 4, 8 or 16 bytes is aligned to its size.",
        "CUDA C++ Programming Guide, 5.3.2 Device Memory Accesses: size and alignment requirement; CUDA_ERROR_MISALIGNED_ADDRESS (716)";
    HostAccess, "host-access",
        "A kernel touches device memory, shared memory and its own stack, never memory of the host.",
        "CUDA Driver API, CUDA_ERROR_ILLEGAL_ADDRESS (700): a load or store on an invalid memory address";
    DivergentBarrier, "divergent-barrier",
        "A barrier is reached by all threads of the block, or by none.",
        "CUDA C++ Programming Guide, 7.6: __syncthreads() in conditional code only if the conditional evaluates identically across the block";
    UninitialisedShared, "uninitialised-shared",
        "Shared memory is written before it is read.",
        "CUDA C++ Programming Guide, 7.2.3 __shared__: a shared variable cannot have an initialiser; its value is undefined";
    LaunchShape, "launch-shape",
        "A launch has blocks of 1 to 1024 threads, at most 64 deep, and a grid within the device's limits.",
        "CUDA C++ Programming Guide, Compute Capabilities, table of technical specifications; cuLaunchKernel: CUDA_ERROR_INVALID_VALUE";
    CopyRange, "copy-range",
        "A copy or a fill stays inside one live allocation.",
        "CUDA Driver API, cuMemcpy: CUDA_ERROR_INVALID_VALUE for ranges outside of an allocation";
    NotDeviceMemory, "not-device-memory",
        "Where device memory is asked for, device memory is given.",
        "CUDA Driver API, cuMemcpy: CUdeviceptr arguments are device addresses";
    DoubleFree, "double-free",
        "Memory is freed once, by the address that the allocation returned.",
        "CUDA Driver API, cuMemFree: dptr must have been returned by a previous allocation";
    FreeInUse, "free-in-use",
        "Memory is freed in stream order: after every operation that uses it.",
        "CUDA C++ Programming Guide, 15.3 Stream Ordered Memory Allocator: the free must be ordered after all accesses";
    HostBufferReused, "host-buffer-reused",
        "A host buffer of an asynchronous copy is left alone until the copy is known to be over.",
        "CUDA Driver API, API synchronization behavior: asynchronous copies of pinned memory return before they are done";
    WrongDevice, "wrong-device",
        "A kernel is launched on a stream of the current context; an event is recorded on a stream of its device.",
        "CUDA C++ Programming Guide, 3.2.9.3 Stream and Event Behavior on several devices";
    NoContext, "no-context",
        "A context is current when the driver is asked to work.",
        "CUDA Driver API, CUDA_ERROR_INVALID_CONTEXT (201): no context is bound to the current thread";
    DeadHandle, "dead-handle",
        "Streams, events, modules, graphs and communicators are not used after they were destroyed.",
        "CUDA Driver API, CUDA_ERROR_INVALID_HANDLE (400): a resource handle passed to the API call was not valid";
    IllegalInCapture, "illegal-in-capture",
        "While a stream is captured nothing waits for it and nothing that cannot be captured is asked of it.",
        "CUDA C++ Programming Guide, 3.2.8.7.3.1 Prohibited and Unhandled Operations during stream capture";
    UnjoinedCapture, "unjoined-capture",
        "Streams that a capture has forked to are joined to its first stream before it ends.",
        "CUDA C++ Programming Guide, 3.2.8.7.3 Creating a Graph Using Stream Capture: CUDA_ERROR_STREAM_CAPTURE_UNJOINED (904)";
    Deadlock, "deadlock",
        "Something that is waited for can happen.",
        "CUDA C++ Programming Guide, 3.2.8.5.4 Implicit Synchronization; NCCL User Guide, Using multiple NCCL communicators concurrently";
    CollectiveMismatch, "collective-mismatch",
        "The calls of all ranks that meet are the same function of the same count, type, operator and root; a receive is as long as its send.",
        "NCCL User Guide, Collective Operations: to be called by every rank with the same count and datatype, or the behaviour is undefined, hangs, crashes and corruption included";
    CollectiveMissing, "collective-missing",
        "Every rank of a communicator makes every collective call, and a send has its receive.",
        "NCCL User Guide, Creating a Communicator, Collective Operations, Point-to-point communication: a call waits for those of its peers";
    CollectiveOverlap, "collective-overlap",
        "Source and destination of a collective are apart, the same, or the rank's part of the other.",
        "NCCL User Guide, In-place Operations";
    DuplicateDevice, "duplicate-device",
        "The ranks of a communicator are on different devices.",
        "NCCL User Guide, Creating a Communicator: using the same CUDA device for several ranks is not supported";
    CommNotReady, "comm-not-ready",
        "A communicator is used once all of its ranks have joined.",
        "NCCL User Guide, ncclCommInitRankConfig: a non-blocking communicator is used when ncclCommGetAsyncError returns ncclSuccess";
    UsedBeforeAllocated, "used-before-allocated",
        "Memory that a stream allocates is used after that: on the stream, or with an event in between.",
        "CUDA C++ Programming Guide, 15.3 Stream Ordered Memory Allocator: the allocation must precede every access in stream order";
    Leak, "leak",
        "What was made is unmade: memory, streams, events, modules, library handles.",
        "CUDA Driver API, cuMemFree, cuStreamDestroy, cuEventDestroy; compute-sanitizer --leak-check full";
    ForeignImage, "foreign-image",
        "The kernels that are loaded are those that the simulator was built from.",
        "tools/cudasim/README.md";
}

/// One violation.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Report {
    /// What was broken.
    pub rule: Rule,
    /// Who did what where.
    pub text: String,
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "cudasim: {}: {}", self.rule.id(), self.text)
    }
}

/// Reports of one process.
#[derive(Default)]
pub(crate) struct Reports {
    all: Vec<Report>,
}

impl Reports {
    /// Says it on standard error, and remembers it; the same thing is said once.
    pub(crate) fn add(&mut self, rule: Rule, text: String) {
        let report = Report { rule, text };
        if self.all.contains(&report) {
            return;
        }
        // A closed standard error leaves nobody to tell.
        let _ = writeln!(std::io::stderr(), "{report}");
        self.all.push(report);
    }

    pub(crate) fn all(&self) -> &[Report] {
        &self.all
    }

    pub(crate) fn take(&mut self) -> Vec<Report> {
        std::mem::take(&mut self.all)
    }
}
