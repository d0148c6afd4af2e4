//! Mistakes in driver calls and in kernels.

use std::ptr::null_mut;

use cudasim::Rule;

use super::machine::*;

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
    a_neighbour_in_the_other_half_of_a_word breaks BlockRace: |machine, stream| {
        machine.launch("planted_other_half", 1, 256, stream, &[machine.zeros(stream)]);
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
    memory_of_a_stream_on_another_one breaks UsedBeforeAllocated: |machine, stream| {
        let mut x = 0;
        // SAFETY: writes one address.
        unsafe { cuMemAllocAsync(&raw mut x, BYTES, stream) };
        let other = machine.stream();
        cuMemsetD8Async(x, 0, BYTES, other);
        cuStreamSynchronize(other);
    }
    a_pool_that_was_destroyed breaks DeadHandle: |machine, stream| {
        let (pool, mut x) = (machine.pool(), 0);
        assert_eq!(cuMemPoolDestroy(pool), SUCCESS);
        // SAFETY: writes one address.
        assert_ne!(unsafe { cuMemAllocFromPoolAsync(&raw mut x, BYTES, pool, stream) }, SUCCESS);
    }
    a_pool_that_is_never_destroyed breaks Leak: |machine, stream| {
        machine.pool();
        cuStreamDestroy_v2(stream);
        cuDevicePrimaryCtxRelease_v2(0);
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
        while is_behind(stream) {}
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
