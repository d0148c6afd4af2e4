//! Fibers: functions that can stop in the middle and go on later, each on a stack of its own.

use std::arch::naked_asm;
use std::ffi::c_void;

#[cfg(not(target_arch = "x86_64"))]
compile_error!("the simulated device switches stacks by x86-64 instructions");

const STACK_BYTES: usize = 64 << 10;

/// Saves what a function must keep and the stack pointer in `*from`, and goes on where `to` was saved.
///
/// # Safety
///
/// `to` was saved by this function, or prepared by [`Fiber::resume`].
#[unsafe(naked)]
unsafe extern "C" fn switch(from: *mut usize, to: usize) {
    naked_asm!(
        "push rbp",
        "push rbx",
        "push r12",
        "push r13",
        "push r14",
        "push r15",
        "mov [rdi], rsp",
        "mov rsp, rsi",
        "pop r15",
        "pop r14",
        "pop r13",
        "pop r12",
        "pop rbx",
        "pop rbp",
        // A jump: a return would be predicted to go back to where this was called.
        "pop rcx",
        "jmp rcx",
    )
}

/// Words on a new stack: six registers, the address to return to, and one that makes a function's entry.
const FRAME: usize = 8;

/// A function and its argument.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Body {
    pub(crate) call: unsafe extern "C" fn(*mut *mut c_void),
    pub(crate) arguments: *mut *mut c_void,
}

/// One fiber. It stays where it is in memory while it runs.
pub(crate) struct Fiber {
    stack: *mut u8,
    /// The fiber's stack pointer while it does not run; 0 before it has started.
    saved: usize,
    /// The stack pointer of whoever resumed it.
    resumer: usize,
    body: Option<Body>,
    /// Whether it has nothing to go on with.
    idle: bool,
}

// SAFETY: the simulator's lock guards it: it runs where the lock is held, and nothing runs on it in between.
unsafe impl Send for Fiber {}

impl Fiber {
    pub(crate) fn new() -> Self {
        let protection = libc::PROT_READ | libc::PROT_WRITE;
        let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_NORESERVE;
        // SAFETY: a new mapping somewhere.
        let stack = unsafe { libc::mmap(std::ptr::null_mut(), STACK_BYTES, protection, flags, -1, 0) };
        assert!(stack != libc::MAP_FAILED, "memory for a thread's stack");
        Self {
            stack: stack.cast(),
            saved: 0,
            resumer: 0,
            body: None,
            idle: true,
        }
    }

    /// Whether an address lies on its stack.
    pub(crate) fn owns(&self, address: u64) -> bool {
        address.wrapping_sub(self.stack as u64) < STACK_BYTES as u64
    }

    /// Starts `body`, or goes on with the one that was started before, until it leaves or ends. Says whether it ended.
    ///
    /// # Safety
    ///
    /// The function may be called with the argument.
    pub(crate) unsafe fn resume(&mut self, body: Body) -> bool {
        if self.idle {
            self.body = Some(body);
            self.idle = false;
        }
        if self.saved == 0 {
            // What `switch` pops. At a function's entry the stack pointer is 8 below a multiple of 16.
            let top = (self.stack as usize + STACK_BYTES) & !15;
            let frame = (top - size_of::<[usize; FRAME]>()) as *mut usize;
            // SAFETY: inside the stack.
            unsafe {
                frame.write_bytes(0, FRAME);
                frame.add(6).write(start as *const () as usize);
            }
            self.saved = frame as usize;
        }
        let to = self.saved;
        STARTING.set(self);
        // SAFETY: saved by `leave`, or prepared above.
        unsafe { switch(&raw mut self.resumer, to) };
        self.idle
    }

    /// Goes back to whoever resumed the fiber that is running. Returns when it is resumed again.
    ///
    /// # Safety
    ///
    /// Called on the fiber itself.
    pub(crate) unsafe fn leave(&mut self) {
        let back = self.resumer;
        // SAFETY: saved by `resume`.
        unsafe { switch(&raw mut self.saved, back) };
    }

    /// Makes the fiber as new: what it was doing is never finished.
    pub(crate) fn forget(&mut self) {
        self.saved = 0;
        self.body = None;
        self.idle = true;
    }
}

impl Drop for Fiber {
    fn drop(&mut self) {
        // SAFETY: the mapping of `new`.
        unsafe { libc::munmap(self.stack.cast(), STACK_BYTES) };
    }
}

thread_local! {
    /// The fiber that is being resumed.
    static STARTING: std::cell::Cell<*mut Fiber> = const { std::cell::Cell::new(std::ptr::null_mut()) };
}

/// The first function of every fiber: one body after the other.
extern "C" fn start() {
    let fiber = STARTING.get();
    loop {
        // SAFETY: set by `resume`, which waits for this fiber to leave; the fiber does not move meanwhile.
        let body = unsafe { (*fiber).body.take() };
        if let Some(body) = body {
            // SAFETY: the caller of `resume` vouches for it.
            unsafe { (body.call)(body.arguments) };
        }
        // SAFETY: as above, and on the fiber itself.
        unsafe {
            (*fiber).idle = true;
            (*fiber).leave();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What a body sees.
    struct Log {
        fiber: *mut Fiber,
        seen: Vec<u32>,
    }

    /// Leaves three times.
    unsafe extern "C" fn count(log: *mut *mut c_void) {
        let log = log.cast::<Log>();
        for i in 0..3 {
            // SAFETY: the log lives as long as the test, which waits for this fiber to leave.
            unsafe {
                (*log).seen.push(i);
                (*(*log).fiber).leave();
            }
        }
    }

    #[test]
    fn a_fiber_goes_on_where_it_left() {
        let mut fiber = Box::new(Fiber::new());
        let at: *mut Fiber = &raw mut *fiber;
        let mut log = Log {
            fiber: at,
            seen: Vec::new(),
        };
        let log: *mut Log = &raw mut log;
        let body = Body {
            call: count,
            arguments: log.cast(),
        };
        // SAFETY: the body's argument is the log; nobody else uses the fiber and the log while it runs.
        unsafe {
            for _ in 0..2 {
                assert!(!(*at).resume(body));
                (*log).seen.push(10);
                assert!(!(*at).resume(body));
                assert!(!(*at).resume(body));
                assert!((*at).resume(body));
            }
            assert_eq!((*log).seen, [0, 10, 1, 2, 0, 10, 1, 2]);
        }
    }
}
