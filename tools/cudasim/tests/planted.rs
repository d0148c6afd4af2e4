//! Each rule with a program that breaks it, and programs that break none under many seeds.

use std::ffi::{CString, c_char, c_int, c_uint, c_void};
use std::ptr::null_mut;
use std::sync::{Mutex, MutexGuard, PoisonError};

use cudasim::{Report, Rule, reset, take_reports};

type Handle = *mut c_void;

unsafe extern "C" {
    fn cuDevicePrimaryCtxRetain(context: *mut Handle, device: c_int) -> c_int;
    safe fn cuDevicePrimaryCtxRelease_v2(device: c_int) -> c_int;
    safe fn cuCtxSetCurrent(context: Handle) -> c_int;
    fn cuStreamCreate(stream: *mut Handle, flags: c_uint) -> c_int;
    safe fn cuStreamDestroy_v2(stream: Handle) -> c_int;
    safe fn cuStreamSynchronize(stream: Handle) -> c_int;
    safe fn cuStreamWaitEvent(stream: Handle, event: Handle, flags: c_uint) -> c_int;
    fn cuEventCreate(event: *mut Handle, flags: c_uint) -> c_int;
    safe fn cuEventDestroy_v2(event: Handle) -> c_int;
    safe fn cuEventRecord(event: Handle, stream: Handle) -> c_int;
    fn cuMemAlloc_v2(address: *mut u64, bytes: usize) -> c_int;
    safe fn cuMemFree_v2(address: u64) -> c_int;
    safe fn cuMemFreeAsync(address: u64, stream: Handle) -> c_int;
    fn cuMemHostAlloc(address: *mut Handle, bytes: usize, flags: c_uint) -> c_int;
    safe fn cuMemFreeHost(address: Handle) -> c_int;
    safe fn cuMemcpyHtoDAsync_v2(to: u64, from: *const c_void, bytes: usize, stream: Handle) -> c_int;
    safe fn cuMemcpyDtoHAsync_v2(to: *mut c_void, from: u64, bytes: usize, stream: Handle) -> c_int;
    safe fn cuMemsetD8Async(to: u64, value: u8, bytes: usize, stream: Handle) -> c_int;
    fn cuModuleLoadData(module: *mut Handle, image: *const c_void) -> c_int;
    safe fn cuModuleUnload(module: Handle) -> c_int;
    fn cuModuleGetFunction(function: *mut Handle, module: Handle, name: *const c_char) -> c_int;
    fn cuLaunchKernel(
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
    safe fn cuStreamBeginCapture_v2(stream: Handle, mode: c_int) -> c_int;
    fn cuStreamEndCapture(stream: Handle, graph: *mut Handle) -> c_int;
    fn cuGraphInstantiateWithFlags(executable: *mut Handle, graph: Handle, flags: u64) -> c_int;
    safe fn cuGraphLaunch(executable: Handle, stream: Handle) -> c_int;
    safe fn cuGraphDestroy(graph: Handle) -> c_int;
    safe fn cuGraphExecDestroy(executable: Handle) -> c_int;
    fn nvrtcCreateProgram(
        program: *mut Handle,
        text: *const c_char,
        name: *const c_char,
        count: c_int,
        headers: *const *const c_char,
        names: *const *const c_char,
    ) -> c_int;
    fn nvrtcCompileProgram(program: Handle, count: c_int, options: *const *const c_char) -> c_int;
    fn nvrtcGetCUBIN(program: Handle, code: *mut c_char) -> c_int;
    fn nvrtcDestroyProgram(program: *mut Handle) -> c_int;
}

const SUCCESS: c_int = 0;
const N: usize = 256;
const BYTES: usize = N * size_of::<f32>();

/// A machine of this test's own: tests of one process take turns.
struct Machine {
    _turn: MutexGuard<'static, ()>,
}

impl Machine {
    fn new(devices: usize, seed: u64) -> Self {
        static TURN: Mutex<()> = Mutex::new(());
        let turn = TURN.lock().unwrap_or_else(PoisonError::into_inner);
        reset(devices, seed);
        let machine = Self { _turn: turn };
        machine.enter(0);
        machine
    }

    /// Makes a device's context current.
    fn enter(&self, device: c_int) {
        let mut context = null_mut();
        // SAFETY: writes one handle.
        assert_eq!(
            unsafe { cuDevicePrimaryCtxRetain(&raw mut context, device) },
            SUCCESS
        );
        assert_eq!(cuCtxSetCurrent(context), SUCCESS);
    }

    fn stream(&self) -> Handle {
        let mut stream = null_mut();
        // SAFETY: writes one handle.
        assert_eq!(unsafe { cuStreamCreate(&raw mut stream, 1) }, SUCCESS);
        stream
    }

    fn event(&self) -> Handle {
        let mut event = null_mut();
        // SAFETY: writes one handle.
        assert_eq!(unsafe { cuEventCreate(&raw mut event, 0) }, SUCCESS);
        event
    }

    fn memory(&self) -> u64 {
        let mut address = 0;
        // SAFETY: writes one address.
        assert_eq!(unsafe { cuMemAlloc_v2(&raw mut address, BYTES) }, SUCCESS);
        address
    }

    /// Memory that is all 0.
    fn zeros(&self, stream: Handle) -> u64 {
        let address = self.memory();
        assert_eq!(cuMemsetD8Async(address, 0, BYTES, stream), SUCCESS);
        address
    }

    fn pinned(&self) -> *mut f32 {
        let mut address = null_mut();
        // SAFETY: writes one address.
        assert_eq!(unsafe { cuMemHostAlloc(&raw mut address, BYTES, 0) }, SUCCESS);
        // SAFETY: as many bytes.
        unsafe { std::ptr::write_bytes(address.cast::<u8>(), 0, BYTES) };
        address.cast()
    }

    fn module(&self) -> Handle {
        let text = CString::new(include_str!("../planted/planted.cu")).unwrap();
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
    fn launch(
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

    fn double(&self, from: u64, to: u64, stream: Handle) {
        assert_eq!(
            self.launch("planted_double", 1, 256, stream, &[from, to, N as u64]),
            SUCCESS
        );
    }

    fn reports(self) -> Vec<Report> {
        take_reports()
    }

    /// The test's end: exactly this rule was broken.
    fn expect(self, rule: Rule) {
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

/// Defines a test for each planted mistake: on a new machine with two devices, the body breaks one rule.
macro_rules! planted {
    ($($name:ident breaks $rule:ident: |$machine:ident, $stream:ident| $body:block)+) => {
        $(
            #[test]
            fn $name() {
                let $machine = Machine::new(2, 1);
                let $stream = $machine.stream();
                $body
                $machine.expect(Rule::$rule);
            }
        )+
    };
}

planted! {
    two_streams_without_an_event breaks StreamRace: |machine, stream| {
        let (x, y) = (machine.zeros(stream), machine.zeros(stream));
        cuStreamSynchronize(stream);
        machine.double(x, y, stream);
        let other = machine.stream();
        machine.double(y, x, other);
        cuStreamSynchronize(other);
        cuStreamSynchronize(stream);
    }
    a_read_before_an_unordered_write breaks StreamRace: |machine, stream| {
        let (x, y) = (machine.zeros(stream), machine.memory());
        cuStreamSynchronize(stream);
        machine.double(x, y, stream);
        let other = machine.stream();
        cuMemsetD8Async(x, 1, BYTES, other);
        cuStreamSynchronize(stream);
        cuStreamSynchronize(other);
    }
    an_event_that_was_recorded_too_early breaks StreamRace: |machine, stream| {
        let (x, y) = (machine.zeros(stream), machine.zeros(stream));
        let event = machine.event();
        cuEventRecord(event, stream);
        machine.double(x, y, stream);
        let other = machine.stream();
        cuStreamWaitEvent(other, event, 0);
        machine.double(y, x, other);
        cuStreamSynchronize(other);
        cuStreamSynchronize(stream);
    }
    shared_memory_without_a_barrier breaks BlockRace: |machine, stream| {
        machine.launch("planted_no_barrier", 1, 256, stream, &[machine.memory()]);
        cuStreamSynchronize(stream);
    }
    blocks_that_write_the_same_element breaks GridRace: |machine, stream| {
        machine.launch("planted_blocks_collide", 4, 32, stream, &[machine.memory()]);
        cuStreamSynchronize(stream);
    }
    one_element_too_many breaks OutOfBounds: |machine, stream| {
        machine.launch("planted_off_by_one", 1, 512, stream, &[machine.memory(), N as u64]);
        assert_eq!(cuStreamSynchronize(stream), 700);
        assert_eq!(cuStreamSynchronize(stream), 700, "the context stays broken");
    }
    a_kernel_on_freed_memory breaks UseAfterFree: |machine, stream| {
        let x = machine.zeros(stream);
        cuStreamSynchronize(stream);
        cuMemFree_v2(x);
        machine.double(x, machine.memory(), stream);
        cuStreamSynchronize(stream);
    }
    a_copy_from_freed_memory breaks UseAfterFree: |machine, stream| {
        let x = machine.zeros(stream);
        cuStreamSynchronize(stream);
        cuMemFree_v2(x);
        let mut to = [0f32; N];
        assert_ne!(cuMemcpyDtoHAsync_v2(to.as_mut_ptr().cast(), x, BYTES, stream), SUCCESS);
    }
    a_kernel_that_reads_new_memory breaks Uninitialised: |machine, stream| {
        machine.double(machine.memory(), machine.memory(), stream);
        cuStreamSynchronize(stream);
    }
    a_copy_of_new_memory breaks Uninitialised: |machine, stream| {
        let mut to = [0f32; N];
        cuMemcpyDtoHAsync_v2(to.as_mut_ptr().cast(), machine.memory(), BYTES, stream);
    }
    a_vector_at_an_odd_address breaks Misaligned: |machine, stream| {
        machine.launch("planted_misaligned", 1, 32, stream, &[machine.zeros(stream), machine.memory()]);
        assert_eq!(cuStreamSynchronize(stream), 716);
    }
    a_kernel_that_writes_to_the_host breaks HostAccess: |machine, stream| {
        let host = machine.pinned();
        machine.double(machine.zeros(stream), host as u64, stream);
        assert_eq!(cuStreamSynchronize(stream), 700);
    }
    half_a_block_at_a_barrier breaks DivergentBarrier: |machine, stream| {
        machine.launch("planted_divergent", 1, 256, stream, &[machine.memory()]);
        assert_eq!(cuStreamSynchronize(stream), 719);
    }
    shared_memory_that_nobody_has_written breaks UninitialisedShared: |machine, stream| {
        machine.launch("planted_unwritten", 1, 256, stream, &[machine.memory()]);
        cuStreamSynchronize(stream);
    }
    a_launch_without_blocks breaks LaunchShape: |machine, stream| {
        assert_eq!(machine.launch("planted_sum", 0, 256, stream, &[machine.memory(), machine.memory()]), 1);
    }
    a_launch_with_too_many_threads breaks LaunchShape: |machine, stream| {
        assert_eq!(machine.launch("planted_sum", 1, 2048, stream, &[machine.memory(), machine.memory()]), 1);
    }
    a_fill_past_the_end breaks CopyRange: |machine, stream| {
        assert_ne!(cuMemsetD8Async(machine.memory(), 0, BYTES + 1, stream), SUCCESS);
    }
    a_copy_past_the_end breaks CopyRange: |machine, stream| {
        let from = [0f32; N];
        assert_ne!(cuMemcpyHtoDAsync_v2(machine.memory() + 4, from.as_ptr().cast(), BYTES, stream), SUCCESS);
    }
    host_memory_as_a_destination breaks NotDeviceMemory: |machine, stream| {
        let (from, to) = ([0f32; N], machine.pinned());
        assert_ne!(cuMemcpyHtoDAsync_v2(to as u64, from.as_ptr().cast(), BYTES, stream), SUCCESS);
    }
    memory_that_is_freed_twice breaks DoubleFree: |machine, stream| {
        let x = machine.memory();
        assert_eq!(cuMemFreeAsync(x, stream), SUCCESS);
        cuStreamSynchronize(stream);
        assert_ne!(cuMemFree_v2(x), SUCCESS);
    }
    the_middle_of_an_allocation_freed breaks DoubleFree: |machine, stream| {
        assert_ne!(cuMemFreeAsync(machine.memory() + 64, stream), SUCCESS);
    }
    memory_freed_on_another_stream breaks FreeInUse: |machine, stream| {
        let (x, y) = (machine.zeros(stream), machine.memory());
        machine.double(x, y, stream);
        cuStreamSynchronize(stream);
        machine.double(x, y, stream);
        // Even where the other stream happens to come later: nothing orders the two.
        let event = machine.event();
        cuEventRecord(event, stream);
        let other = machine.stream();
        while cudasim_is_behind(stream) {}
        cuMemFreeAsync(y, other);
        cuStreamSynchronize(other);
    }
    a_pinned_buffer_that_is_overwritten breaks HostBufferReused: |machine, stream| {
        let (host, x) = (machine.pinned(), machine.memory());
        cuMemcpyHtoDAsync_v2(x, host.cast(), BYTES, stream);
        // SAFETY: the buffer is allocated.
        unsafe { *host = 1.0 };
        cuStreamSynchronize(stream);
    }
    a_pinned_buffer_that_two_streams_use breaks HostBufferReused: |machine, stream| {
        let (host, x, other) = (machine.pinned(), machine.zeros(stream), machine.stream());
        cuStreamSynchronize(stream);
        cuMemcpyDtoHAsync_v2(host.cast(), x, BYTES, stream);
        cuMemcpyHtoDAsync_v2(machine.memory(), host.cast(), BYTES, other);
        cuStreamSynchronize(stream);
    }
    a_pinned_buffer_freed_during_a_copy breaks HostBufferReused: |machine, stream| {
        let (host, x) = (machine.pinned(), machine.memory());
        cuMemcpyHtoDAsync_v2(x, host.cast(), BYTES, stream);
        cuMemFreeHost(host.cast());
        // The copy is not made any more: its stream is never waited for.
    }
    a_launch_on_another_devices_stream breaks WrongDevice: |machine, stream| {
        machine.enter(1);
        let y = machine.memory();
        assert_ne!(machine.launch("planted_blocks_collide", 1, 32, stream, &[y]), SUCCESS);
    }
    an_event_on_another_devices_stream breaks WrongDevice: |machine, stream| {
        machine.enter(1);
        assert_ne!(cuEventRecord(machine.event(), stream), SUCCESS);
    }
    work_without_a_context breaks NoContext: |machine, stream| {
        let x = machine.memory();
        cuCtxSetCurrent(null_mut());
        assert_ne!(cuMemsetD8Async(x, 0, BYTES, stream), SUCCESS);
    }
    a_stream_that_was_destroyed breaks DeadHandle: |machine, stream| {
        cuStreamDestroy_v2(stream);
        assert_ne!(cuStreamSynchronize(stream), SUCCESS);
    }
    an_event_that_was_destroyed breaks DeadHandle: |machine, stream| {
        let event = machine.event();
        cuEventDestroy_v2(event);
        assert_ne!(cuEventRecord(event, stream), SUCCESS);
    }
    a_module_that_was_unloaded breaks DeadHandle: |machine, _stream| {
        let module = machine.module();
        assert_eq!(cuModuleUnload(module), SUCCESS);
        assert_ne!(cuModuleUnload(module), SUCCESS);
    }
    waiting_for_a_captured_stream breaks IllegalInCapture: |machine, stream| {
        cuStreamBeginCapture_v2(stream, 0);
        assert_ne!(cuStreamSynchronize(stream), SUCCESS);
    }
    a_fork_that_is_not_joined breaks UnjoinedCapture: |machine, stream| {
        let (x, other, event) = (machine.memory(), machine.stream(), machine.event());
        cuStreamBeginCapture_v2(stream, 0);
        cuEventRecord(event, stream);
        cuStreamWaitEvent(other, event, 0);
        cuMemsetD8Async(x, 0, BYTES, other);
        let mut graph = null_mut();
        // SAFETY: writes one handle.
        assert_ne!(unsafe { cuStreamEndCapture(stream, &raw mut graph) }, SUCCESS);
    }
    branches_of_a_graph_that_collide breaks StreamRace: |machine, stream| {
        let (x, other) = (machine.memory(), machine.stream());
        let (fork, join) = (machine.event(), machine.event());
        cuStreamBeginCapture_v2(stream, 0);
        cuEventRecord(fork, stream);
        cuStreamWaitEvent(other, fork, 0);
        cuMemsetD8Async(x, 0, BYTES, other);
        cuMemsetD8Async(x, 1, BYTES, stream);
        cuEventRecord(join, other);
        cuStreamWaitEvent(stream, join, 0);
        let executable = end_capture(stream);
        cuGraphLaunch(executable, stream);
        cuStreamSynchronize(stream);
    }
    memory_that_is_never_freed breaks Leak: |machine, stream| {
        machine.memory();
        cuStreamDestroy_v2(stream);
        cuDevicePrimaryCtxRelease_v2(0);
    }
    an_image_of_somebody_elses breaks ForeignImage: |machine, _stream| {
        let image = [0x7fu8; 64];
        let mut module = null_mut();
        // SAFETY: as many bytes as an image has, and more.
        assert_ne!(unsafe { cuModuleLoadData(&raw mut module, image.as_ptr().cast()) }, SUCCESS);
    }
}

/// Lets time pass until a stream is idle, without learning anything from that.
fn cudasim_is_behind(stream: Handle) -> bool {
    unsafe extern "C" {
        safe fn cuStreamQuery(stream: Handle) -> c_int;
    }
    cuStreamQuery(stream) != SUCCESS
}

/// The executable graph of a capture.
fn end_capture(stream: Handle) -> Handle {
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

/// A pipeline over three streams, ordered by events, as a loader and a back end have it.
fn pipeline(machine: &Machine) {
    let (copy, compute, back) = (machine.stream(), machine.stream(), machine.stream());
    let (copied, computed, consumed) = (machine.event(), machine.event(), machine.event());
    let (host, result) = (machine.pinned(), machine.pinned());
    let (x, y) = (machine.memory(), machine.memory());
    for round in 0..3 {
        // SAFETY: the last copy out of it is over.
        unsafe { *host = round as f32 };
        cuStreamWaitEvent(copy, computed, 0);
        cuMemcpyHtoDAsync_v2(x, host.cast(), BYTES, copy);
        cuEventRecord(copied, copy);
        cuStreamWaitEvent(compute, copied, 0);
        cuStreamWaitEvent(compute, consumed, 0);
        machine.double(x, y, compute);
        cuEventRecord(computed, compute);
        cuStreamWaitEvent(back, computed, 0);
        cuMemcpyDtoHAsync_v2(result.cast(), y, BYTES, back);
        cuEventRecord(consumed, back);
        cuStreamSynchronize(back);
        // SAFETY: the copy into it is over.
        assert_eq!(unsafe { *result }, 2.0 * round as f32);
    }
}

/// A reduction, and a graph with two branches that is replayed.
fn graph(machine: &Machine) {
    let (stream, other) = (machine.stream(), machine.stream());
    let (fork, join) = (machine.event(), machine.event());
    let (x, y, z) = (machine.zeros(stream), machine.memory(), machine.memory());
    assert_eq!(machine.launch("planted_sum", 1, 256, stream, &[x, y]), SUCCESS);
    cuStreamSynchronize(stream);
    cuStreamBeginCapture_v2(stream, 0);
    cuEventRecord(fork, stream);
    cuStreamWaitEvent(other, fork, 0);
    machine.double(x, z, other);
    machine.double(x, y, stream);
    cuEventRecord(join, other);
    cuStreamWaitEvent(stream, join, 0);
    machine.double(z, x, stream);
    let executable = end_capture(stream);
    for _ in 0..3 {
        assert_eq!(cuGraphLaunch(executable, stream), SUCCESS);
    }
    let mut to = [1f32; N];
    cuMemcpyDtoHAsync_v2(to.as_mut_ptr().cast(), x, BYTES, stream);
    assert_eq!(to, [0.0; N]);
    assert_eq!(cuGraphExecDestroy(executable), SUCCESS);
}

#[test]
fn correct_programs_break_no_rule_under_any_seed() {
    for seed in 0..60 {
        for program in [pipeline, graph] {
            let machine = Machine::new(1, seed);
            program(&machine);
            let reports = machine.reports();
            assert!(reports.is_empty(), "seed {seed}: {reports:?}");
        }
    }
}

#[test]
fn every_rule_has_a_statement_and_a_source_of_its_own_name() {
    for (i, rule) in Rule::ALL.iter().enumerate() {
        assert!(Rule::ALL[..i].iter().all(|other| other.id() != rule.id()));
        assert!(rule.says().ends_with('.') && !rule.source().is_empty());
    }
}
