//! The device under test, and views of its memory between guards.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use cudarc::driver::{CudaContext, CudaSlice, CudaStream, DevicePtr as _};
use verydeep::backend::cuda::device::{DeviceFacts, devices};
use verydeep::backend::cuda::launch::Launcher;
use verydeep::backend::cuda::libraries::Library;

use super::draw::Draw;
use super::element::{Element, Stored};
use super::under_test;

/// Elements before and after every view: a multiple of 16 bytes of every type.
const GUARD: usize = 16;

/// Values in device memory of their own, between guards.
pub(crate) struct View<T> {
    stream: Arc<CudaStream>,
    memory: CudaSlice<T>,
    /// Index of the first value.
    start: usize,
    /// What the values were before the launch.
    before: Vec<T>,
}

impl<T: Stored> View<T> {
    fn new(stream: &Arc<CudaStream>, start: usize, before: Vec<T>) -> Self {
        let mut content = vec![T::SENTINEL; start + before.len() + GUARD];
        content[start..start + before.len()].copy_from_slice(&before);
        let memory = stream.clone_htod(&content).unwrap();
        stream.synchronize().unwrap();
        Self {
            stream: Arc::clone(stream),
            memory,
            start,
            before,
        }
    }

    /// The address of the first value.
    pub(crate) fn at(&self) -> u64 {
        self.memory.device_ptr(&self.stream).0 + (self.start * size_of::<T>()) as u64
    }

    /// The values. The guards must be as they were.
    pub(crate) fn read(&self, what: &str) -> Vec<T> {
        let mut content = self.stream.clone_dtoh(&self.memory).unwrap();
        self.stream.synchronize().unwrap();
        let end = self.start + self.before.len();
        let kept = |values: &[T]| bytemuck::cast_slice::<T, u8>(values).to_vec();
        let guards = [&content[..self.start], &content[end..]].map(kept);
        let expected = [self.start, GUARD].map(|count| kept(&vec![T::SENTINEL; count]));
        assert!(guards == expected, "{what}: writes outside of {}", self.place());
        content.truncate(end);
        content.split_off(self.start)
    }

    /// The values are these, to the bit.
    pub(crate) fn holds(&self, expected: &[T], what: &str) {
        let found = self.read(what);
        assert_eq!(found.len(), expected.len(), "{what}: elements");
        let wrong = found.iter().zip(expected).position(|(a, b)| !a.same(*b));
        if let Some(i) = wrong {
            let (found, expected) = (found[i], expected[i]);
            panic!(
                "{what}: element {i} of {} is {found:?}, not {expected:?}",
                self.place()
            );
        }
    }

    /// The values are those of before the launch.
    pub(crate) fn unchanged(&self, what: &str) {
        let found = self.read(what);
        let same = bytemuck::cast_slice::<T, u8>(&found) == bytemuck::cast_slice::<T, u8>(&self.before);
        assert!(same, "{what}: changes an input, {}", self.place());
    }

    fn place(&self) -> String {
        let (name, count, shift) = (std::any::type_name::<T>(), self.before.len(), self.start - GUARD);
        format!("{count} {name}, {shift} elements from a boundary")
    }
}

impl<T: Element> View<T> {
    /// The values are these, each rounded once, to the bit.
    pub(crate) fn rounds(&self, expected: &[f32], what: &str) {
        let rounded: Vec<T> = expected.iter().map(|&x| T::round(x)).collect();
        self.holds(&rounded, what);
    }
}

/// The device, a source of random numbers, and what has been counted.
pub(crate) struct Bench {
    pub(crate) draw: Draw,
    /// Whether new views start at 16-byte boundaries, or anywhere.
    pub(crate) aligned: bool,
    /// Whether the device counts launches and bytes: the simulated one does.
    pub(crate) counts: bool,
    /// Of at most 8 blocks, and of as many as there is work for.
    launchers: [Launcher; 2],
    /// Whoever counts traffic is alone.
    _turn: MutexGuard<'static, ()>,
}

impl Bench {
    pub(crate) fn new() -> Self {
        static TURN: Mutex<()> = Mutex::new(());
        let turn = TURN.lock().unwrap_or_else(PoisonError::into_inner);
        let under_test::Device {
            ordinal,
            libraries,
            counts,
        } = under_test::under_test();
        for library in [Library::Driver, Library::Nvrtc] {
            libraries.need(library).unwrap();
        }
        let facts = devices(libraries).unwrap().remove(ordinal);
        let context = CudaContext::new(ordinal).unwrap();
        // SAFETY: everything is enqueued on one stream.
        unsafe { context.disable_event_tracking() };
        let stream = context.new_stream().unwrap();
        let launchers = [1, 1000].map(|multiprocessors| {
            let facts = DeviceFacts {
                multiprocessors,
                ..facts.clone()
            };
            Launcher::new(&stream, libraries, &facts).unwrap()
        });
        Self {
            draw: Draw::new(),
            aligned: true,
            counts,
            launchers,
            _turn: turn,
        }
    }

    /// The kernels with a small grid or with a large one.
    pub(crate) fn launcher(&mut self) -> &Launcher {
        let which = self.draw.integer(0..=1);
        &self.launchers[which]
    }

    /// Memory that holds `values`.
    pub(crate) fn input<T: Stored>(&mut self, values: &[T]) -> View<T> {
        let most = if self.aligned { 0 } else { 16 / size_of::<T>() - 1 };
        let start = GUARD + self.draw.integer(0..=most);
        View::new(self.launchers[0].stream(), start, values.to_vec())
    }

    /// Memory that holds `values`, each rounded.
    pub(crate) fn elements<T: Element>(&mut self, values: &[f32]) -> View<T> {
        let rounded: Vec<T> = values.iter().map(|&x| T::round(x)).collect();
        self.input(&rounded)
    }

    /// Memory for `count` values, all sentinels.
    pub(crate) fn output<T: Stored>(&mut self, count: usize) -> View<T> {
        self.input(&vec![T::SENTINEL; count])
    }

    /// `judge` with all views aligned, then twice with each of them anywhere.
    pub(crate) fn everywhere(&mut self, mut judge: impl FnMut(&mut Self)) {
        for aligned in [true, false, false] {
            self.aligned = aligned;
            judge(self);
        }
    }
}

/// `launch!(bench, method(arguments))`: enqueues kernels, on one of the two grids.
macro_rules! launch {
    ($bench:expr, $method:ident($($argument:expr),* $(,)?)) => {
        // SAFETY: every view is as long as the launcher wants it.
        unsafe { $bench.launcher().$method($($argument),*) }.unwrap()
    };
}
pub(crate) use launch;

/// Launches of a kernel, and the bytes that it has read and written, so far. Only the simulated device counts them.
pub(crate) fn traffic(kernel: &str) -> [u64; 3] {
    type Traffic = unsafe extern "C" fn(*const std::ffi::c_char, *mut [u64; 3]);
    let name = std::ffi::CString::new(kernel).unwrap();
    let mut traffic = [0; 3];
    let this = libloading::os::unix::Library::this();
    // SAFETY: the simulator is loaded with its names for everyone; this is what it declares.
    unsafe { this.get::<Traffic>(b"cudasim_traffic\0").unwrap()(name.as_ptr(), &raw mut traffic) };
    traffic
}
