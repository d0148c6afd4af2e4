//! The C functions as a program calls them, and a machine for one test.

use std::ffi::{CString, c_char, c_int, c_uint, c_void};
use std::ptr::null_mut;
use std::sync::{Mutex, MutexGuard, PoisonError};

use cudasim::{Report, Rule, reset, take_reports};

pub type Handle = *mut c_void;

unsafe extern "C" {
    pub fn cuDevicePrimaryCtxRetain(context: *mut Handle, device: c_int) -> c_int;
    pub safe fn cuDevicePrimaryCtxRelease_v2(device: c_int) -> c_int;
    pub safe fn cuCtxSetCurrent(context: Handle) -> c_int;
    pub fn cuStreamCreate(stream: *mut Handle, flags: c_uint) -> c_int;
    pub safe fn cuStreamDestroy_v2(stream: Handle) -> c_int;
    pub safe fn cuStreamSynchronize(stream: Handle) -> c_int;
    pub safe fn cuStreamWaitEvent(stream: Handle, event: Handle, flags: c_uint) -> c_int;
    pub fn cuEventCreate(event: *mut Handle, flags: c_uint) -> c_int;
    pub safe fn cuEventDestroy_v2(event: Handle) -> c_int;
    pub safe fn cuEventRecord(event: Handle, stream: Handle) -> c_int;
    pub fn cuMemAlloc_v2(address: *mut u64, bytes: usize) -> c_int;
    pub safe fn cuMemFree_v2(address: u64) -> c_int;
    pub fn cuMemAllocAsync(address: *mut u64, bytes: usize, stream: Handle) -> c_int;
    pub safe fn cuMemFreeAsync(address: u64, stream: Handle) -> c_int;
    pub fn cuMemHostAlloc(address: *mut Handle, bytes: usize, flags: c_uint) -> c_int;
    pub safe fn cuMemFreeHost(address: Handle) -> c_int;
    pub safe fn cuMemcpyHtoDAsync_v2(to: u64, from: *const c_void, bytes: usize, stream: Handle) -> c_int;
    pub safe fn cuMemcpyDtoHAsync_v2(to: *mut c_void, from: u64, bytes: usize, stream: Handle) -> c_int;
    pub safe fn cuMemsetD8Async(to: u64, value: u8, bytes: usize, stream: Handle) -> c_int;
    pub fn cuModuleLoadData(module: *mut Handle, image: *const c_void) -> c_int;
    pub safe fn cuModuleUnload(module: Handle) -> c_int;
    pub fn cuModuleGetFunction(function: *mut Handle, module: Handle, name: *const c_char) -> c_int;
    pub fn cuLaunchKernel(
        function: Handle,
        grid_x: c_uint,
        grid_y: c_uint,
        grid_z: c_uint,
        block_x: c_uint,
        block_y: c_uint,
        block_z: c_uint,
        shared: c_uint,
        stream: Handle,
        arguments: *mut Handle,
        extra: *mut Handle,
    ) -> c_int;
    pub safe fn cuStreamBeginCapture_v2(stream: Handle, mode: c_int) -> c_int;
    pub fn cuStreamEndCapture(stream: Handle, graph: *mut Handle) -> c_int;
    pub fn cuGraphInstantiateWithFlags(executable: *mut Handle, graph: Handle, flags: u64) -> c_int;
    pub safe fn cuGraphLaunch(executable: Handle, stream: Handle) -> c_int;
    pub safe fn cuGraphDestroy(graph: Handle) -> c_int;
    pub safe fn cuGraphExecDestroy(executable: Handle) -> c_int;
    pub fn nvrtcCreateProgram(
        program: *mut Handle,
        text: *const c_char,
        name: *const c_char,
        count: c_int,
        headers: *const *const c_char,
        names: *const *const c_char,
    ) -> c_int;
    pub fn nvrtcCompileProgram(program: Handle, count: c_int, options: *const *const c_char) -> c_int;
    pub fn nvrtcGetCUBIN(program: Handle, code: *mut c_char) -> c_int;
    pub fn nvrtcDestroyProgram(program: *mut Handle) -> c_int;
    pub fn cuMemPoolCreate(pool: *mut Handle, properties: *const c_int) -> c_int;
    pub safe fn cuMemPoolDestroy(pool: Handle) -> c_int;
    pub fn cuMemPoolGetAttribute(pool: Handle, attribute: c_int, value: *mut u64) -> c_int;
    pub fn cuMemAllocFromPoolAsync(address: *mut u64, bytes: usize, pool: Handle, stream: Handle) -> c_int;
    pub fn ncclGetUniqueId(id: *mut UniqueId) -> c_int;
    pub fn ncclCommInitRank(comm: *mut Handle, ranks: c_int, id: UniqueId, rank: c_int) -> c_int;
    pub fn ncclCommInitRankConfig(
        comm: *mut Handle,
        ranks: c_int,
        id: UniqueId,
        rank: c_int,
        config: *const Config,
    ) -> c_int;
    pub fn ncclCommInitAll(comms: *mut Handle, count: c_int, devices: *const c_int) -> c_int;
    pub safe fn ncclCommDestroy(comm: Handle) -> c_int;
    pub safe fn ncclCommAbort(comm: Handle) -> c_int;
    pub fn ncclCommGetAsyncError(comm: Handle, error: *mut c_int) -> c_int;
    pub safe fn ncclGroupStart() -> c_int;
    pub safe fn ncclGroupEnd() -> c_int;
    pub safe fn ncclAllReduce(
        from: u64,
        to: u64,
        count: usize,
        element: c_int,
        operator: c_int,
        comm: Handle,
        stream: Handle,
    ) -> c_int;
    pub safe fn ncclReduceScatter(
        from: u64,
        to: u64,
        count: usize,
        element: c_int,
        operator: c_int,
        comm: Handle,
        stream: Handle,
    ) -> c_int;
    pub safe fn ncclBroadcast(
        from: u64,
        to: u64,
        count: usize,
        element: c_int,
        root: c_int,
        comm: Handle,
        stream: Handle,
    ) -> c_int;
    pub safe fn ncclAllGather(
        from: u64,
        to: u64,
        count: usize,
        element: c_int,
        comm: Handle,
        stream: Handle,
    ) -> c_int;
    pub safe fn ncclSend(
        from: u64,
        count: usize,
        element: c_int,
        peer: c_int,
        comm: Handle,
        stream: Handle,
    ) -> c_int;
    pub safe fn ncclRecv(
        to: u64,
        count: usize,
        element: c_int,
        peer: c_int,
        comm: Handle,
        stream: Handle,
    ) -> c_int;
}

/// ncclUniqueId.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct UniqueId(pub [u64; 16]);

impl UniqueId {
    pub fn new() -> Self {
        let mut id = Self([0; 16]);
        // SAFETY: writes 128 bytes.
        assert_eq!(unsafe { ncclGetUniqueId(&raw mut id) }, SUCCESS);
        id
    }
}

/// The beginning of ncclConfig_t.
#[repr(C)]
pub struct Config {
    pub size: usize,
    pub magic: u32,
    pub version: u32,
    pub blocking: c_int,
}

/// Element types, operators and results of NCCL that the tests use.
pub const FLOAT32: c_int = 7;
pub const SUM: c_int = 0;
pub const MAX: c_int = 2;
pub const NCCL_SYSTEM_ERROR: c_int = 2;
pub const NCCL_REMOTE_ERROR: c_int = 6;
pub const NCCL_IN_PROGRESS: c_int = 7;

pub const SUCCESS: c_int = 0;
pub const N: usize = 256;
pub const BYTES: usize = N * size_of::<f32>();

/// A machine of this test's own: tests of one process take turns.
pub struct Machine {
    _turn: MutexGuard<'static, ()>,
}

impl Machine {
    pub fn new(devices: usize, seed: u64) -> Self {
        static TURN: Mutex<()> = Mutex::new(());
        let turn = TURN.lock().unwrap_or_else(PoisonError::into_inner);
        reset(devices, seed);
        let machine = Self { _turn: turn };
        machine.enter(0);
        machine
    }

    /// Makes a device's context current.
    pub fn enter(&self, device: c_int) {
        let mut context = null_mut();
        // SAFETY: writes one handle.
        assert_eq!(
            unsafe { cuDevicePrimaryCtxRetain(&raw mut context, device) },
            SUCCESS
        );
        assert_eq!(cuCtxSetCurrent(context), SUCCESS);
    }

    pub fn stream(&self) -> Handle {
        let mut stream = null_mut();
        // SAFETY: writes one handle.
        assert_eq!(unsafe { cuStreamCreate(&raw mut stream, 1) }, SUCCESS);
        stream
    }

    pub fn event(&self) -> Handle {
        let mut event = null_mut();
        // SAFETY: writes one handle.
        assert_eq!(unsafe { cuEventCreate(&raw mut event, 0) }, SUCCESS);
        event
    }

    pub fn memory(&self) -> u64 {
        let mut address = 0;
        // SAFETY: writes one address.
        assert_eq!(unsafe { cuMemAlloc_v2(&raw mut address, BYTES) }, SUCCESS);
        address
    }

    /// Memory that holds these values.
    pub fn holding(&self, values: &[f32; N], stream: Handle) -> u64 {
        let address = self.memory();
        // Pageable, so that it is copied at once.
        assert_eq!(
            cuMemcpyHtoDAsync_v2(address, values.as_ptr().cast(), BYTES, stream),
            SUCCESS
        );
        address
    }

    /// What memory holds once its stream gets there.
    pub fn content(&self, address: u64, stream: Handle) -> [f32; N] {
        let mut values = [0.0; N];
        assert_eq!(
            cuMemcpyDtoHAsync_v2(values.as_mut_ptr().cast(), address, BYTES, stream),
            SUCCESS
        );
        values
    }

    /// Memory that is all 0.
    pub fn zeros(&self, stream: Handle) -> u64 {
        let address = self.memory();
        assert_eq!(cuMemsetD8Async(address, 0, BYTES, stream), SUCCESS);
        address
    }

    /// A memory pool of device 0.
    pub fn pool(&self) -> Handle {
        // Pinned memory, no handles, on a device, of this number; the rest of CUmemPoolProps is 0.
        let mut properties = [0; 22];
        properties[..4].copy_from_slice(&[1, 0, 1, 0]);
        let mut pool = null_mut();
        // SAFETY: reads the properties, writes one handle.
        assert_eq!(
            unsafe { cuMemPoolCreate(&raw mut pool, properties.as_ptr()) },
            SUCCESS
        );
        pool
    }

    pub fn pinned(&self) -> *mut f32 {
        let mut address = null_mut();
        // SAFETY: writes one address.
        assert_eq!(unsafe { cuMemHostAlloc(&raw mut address, BYTES, 0) }, SUCCESS);
        // SAFETY: as many bytes.
        unsafe { std::ptr::write_bytes(address.cast::<u8>(), 0, BYTES) };
        address.cast()
    }

    pub fn module(&self) -> Handle {
        let text = CString::new(include_str!("../../planted/planted.cu")).unwrap();
        let options = [c"--fmad=false".as_ptr()];
        let (mut program, mut module) = (null_mut(), null_mut());
        let mut code = [0u8; 24];
        // SAFETY: strings and rooms as NVRTC asks for.
        unsafe {
            let name = c"planted.cu".as_ptr();
            let none = std::ptr::null();
            assert_eq!(
                nvrtcCreateProgram(&raw mut program, text.as_ptr(), name, 0, none, none),
                SUCCESS
            );
            assert_eq!(nvrtcCompileProgram(program, 1, options.as_ptr()), SUCCESS);
            assert_eq!(nvrtcGetCUBIN(program, code.as_mut_ptr().cast()), SUCCESS);
            assert_eq!(nvrtcDestroyProgram(&raw mut program), SUCCESS);
            assert_eq!(cuModuleLoadData(&raw mut module, code.as_ptr().cast()), SUCCESS);
        }
        module
    }

    /// Launches a planted kernel; arguments are 8 bytes each, of which the kernel reads what it needs.
    pub fn launch(
        &self,
        kernel: &str,
        blocks: c_uint,
        threads: c_uint,
        stream: Handle,
        arguments: &[u64],
    ) -> c_int {
        let name = CString::new(kernel).unwrap();
        let mut function = null_mut();
        let mut pointers: Vec<Handle> = arguments
            .iter()
            .map(|a| (&raw const *a).cast_mut().cast())
            .collect();
        // SAFETY: one pointer for each parameter.
        unsafe {
            assert_eq!(
                cuModuleGetFunction(&raw mut function, self.module(), name.as_ptr()),
                SUCCESS
            );
            let arguments = pointers.as_mut_ptr();
            cuLaunchKernel(
                function,
                blocks,
                1,
                1,
                threads,
                1,
                1,
                0,
                stream,
                arguments,
                null_mut(),
            )
        }
    }

    pub fn double(&self, from: u64, to: u64, stream: Handle) {
        assert_eq!(
            self.launch("planted_double", 1, 256, stream, &[from, to, N as u64]),
            SUCCESS
        );
    }

    pub fn reports(self) -> Vec<Report> {
        take_reports()
    }

    /// The test's end: exactly this rule was broken.
    pub fn expect(self, rule: Rule) {
        let reports = self.reports();
        assert!(
            !reports.is_empty(),
            "{} was not noticed ({})",
            rule.id(),
            rule.source()
        );
        let others: Vec<&Report> = reports.iter().filter(|report| report.rule != rule).collect();
        assert!(
            others.is_empty(),
            "{others:?} beside {} ({})",
            rule.id(),
            rule.source()
        );
    }
}

/// Lets time pass until a stream is idle, without learning anything from that.
pub fn is_behind(stream: Handle) -> bool {
    unsafe extern "C" {
        safe fn cudasim_stream_query(stream: Handle) -> c_int;
    }
    cudasim_stream_query(stream) != SUCCESS
}

/// The executable graph of a capture.
pub fn end_capture(stream: Handle) -> Handle {
    let (mut graph, mut executable) = (null_mut(), null_mut());
    // SAFETY: each writes one handle.
    unsafe {
        assert_eq!(cuStreamEndCapture(stream, &raw mut graph), SUCCESS);
        assert_eq!(
            cuGraphInstantiateWithFlags(&raw mut executable, graph, 0),
            SUCCESS
        );
    }
    assert_eq!(cuGraphDestroy(graph), SUCCESS);
    executable
}
