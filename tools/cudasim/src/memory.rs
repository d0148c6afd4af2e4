//! Device memory: one reserved range of host addresses per device, and a shadow of every word of it.
//!
//! Allocations never touch each other and freed memory is never used again, so that an access out of bounds or after a
//! free hits nothing: its shadow says that no allocation is there.

use std::collections::BTreeMap;

/// Address space of one device.
pub(crate) const REGION: u64 = 1 << 36;

/// Devices at most; as many as the program may ask for.
pub(crate) const MOST_DEVICES: usize = 16;

/// Allocations begin on pages, and an unused page lies between two.
const PAGE: u64 = 4096;

/// What is known about a page: how many bytes of it, from its start, are allocated, and whether any was touched.
type Page = u16;
const TOUCHED: Page = 1 << 15;

/// What freshly allocated memory holds: a NaN in any float format.
const POISON: u8 = 0xff;

/// Who touched a word last, in which way.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Stamp {
    /// The lane of the operation (a stream); 0 for nobody.
    pub(crate) lane: u32,
    /// The lane's time at that operation.
    pub(crate) time: u32,
    /// Inside a graph: the node.
    pub(crate) node: u32,
    /// Inside a kernel: the launch, the block, the barrier interval within the block, and the thread.
    pub(crate) launch: u32,
    pub(crate) block: u32,
    pub(crate) interval: u32,
    pub(crate) thread: u32,
}

/// The last access of a kind to a word, or those of one barrier interval.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Touch {
    /// The last of them.
    pub(crate) stamp: Stamp,
    /// The threads that touched the lower half of the word and the upper one: neighbours of 16 bits share a word.
    pub(crate) threads: [u32; 2],
    /// The bytes that they touched, lowest bit first.
    pub(crate) bytes: u8,
}

/// What is known about four bytes of device memory.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Word {
    /// Which of the four bytes have been written, lowest bit first.
    pub(crate) written: u8,
    /// Whether the last write was atomic.
    pub(crate) atomic: bool,
    pub(crate) write: Touch,
    pub(crate) read: Touch,
}

/// A live or freed range of device memory.
#[derive(Debug, Clone)]
pub(crate) struct Allocation {
    pub(crate) address: u64,
    pub(crate) bytes: u64,
    pub(crate) device: usize,
    /// The memory pool that it comes from, for what is allocated in stream order.
    pub(crate) pool: Option<usize>,
    /// The operation from which on it is there; nobody's lane for what was there at once.
    pub(crate) born: Stamp,
    pub(crate) freed: bool,
}

/// The memory of all devices.
pub(crate) struct DeviceMemory {
    base: u64,
    /// A word for every word of memory. Untouched pages of it cost nothing and read as zero, which is a valid [`Word`].
    shadow: *mut Word,
    /// A page for every page of memory, likewise.
    pages: *mut Page,
    next: Vec<u64>,
    used: Vec<u64>,
    /// The most that was used since it was asked for.
    most_used: Vec<u64>,
    /// By address, freed ones included: they explain what a wild access hit.
    allocations: BTreeMap<u64, Allocation>,
    /// Bytes of each device.
    capacity: u64,
}

// SAFETY: the simulator's lock guards it.
unsafe impl Send for DeviceMemory {}

fn reserve(bytes: u64, protection: i32) -> u64 {
    let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_NORESERVE;
    // SAFETY: a new mapping somewhere.
    let at = unsafe { libc::mmap(std::ptr::null_mut(), bytes as usize, protection, flags, -1, 0) };
    assert!(at != libc::MAP_FAILED, "address space for the simulated devices");
    at as u64
}

/// Bytes of shadow for so much device memory.
const fn shadow_bytes(bytes: u64) -> u64 {
    bytes / 4 * size_of::<Word>() as u64
}

/// Bytes of the table of pages for so much device memory.
const fn table_bytes(bytes: u64) -> u64 {
    bytes / PAGE * size_of::<Page>() as u64
}

impl Drop for DeviceMemory {
    fn drop(&mut self) {
        let bytes = REGION * self.next.len() as u64;
        // SAFETY: the mappings that `new` made; nothing points into them any more.
        unsafe {
            libc::munmap(self.base as *mut libc::c_void, bytes as usize);
            libc::munmap(self.shadow.cast(), shadow_bytes(bytes) as usize);
            libc::munmap(self.pages.cast(), table_bytes(bytes) as usize);
        }
    }
}

impl DeviceMemory {
    pub(crate) fn new(devices: usize, capacity: u64) -> Self {
        let bytes = REGION * devices as u64;
        // Nothing is committed until it is touched; pages that no allocation has are not even readable.
        let base = reserve(bytes, libc::PROT_NONE);
        let table = |bytes| reserve(bytes, libc::PROT_READ | libc::PROT_WRITE);
        Self {
            base,
            shadow: table(shadow_bytes(bytes)) as *mut Word,
            pages: table(table_bytes(bytes)) as *mut Page,
            next: vec![PAGE; devices],
            used: vec![0; devices],
            most_used: vec![0; devices],
            allocations: BTreeMap::new(),
            capacity,
        }
    }

    /// Whether an address is one of a device.
    #[inline]
    pub(crate) fn is_device(&self, address: u64) -> bool {
        address.wrapping_sub(self.base) < REGION * self.next.len() as u64
    }

    /// The shadow of the word that holds a device address.
    #[inline]
    pub(crate) fn word(&mut self, address: u64) -> &mut Word {
        debug_assert!(self.is_device(address), "a device address");
        // SAFETY: the shadow covers every word of every device, and zero bytes are a valid `Word`.
        unsafe { &mut *self.shadow.add((address - self.base) as usize / 4) }
    }

    fn page(&mut self, address: u64) -> &mut Page {
        debug_assert!(self.is_device(address), "a device address");
        // SAFETY: the table covers every page of every device, and zero is a valid `Page`.
        unsafe { &mut *self.pages.add(((address - self.base) / PAGE) as usize) }
    }

    /// Whether the byte at a device address is allocated.
    #[inline]
    pub(crate) fn is_live(&mut self, address: u64) -> bool {
        let within = (address - self.base) % PAGE;
        within < u64::from(*self.page(address) & !TOUCHED)
    }

    /// The shadow of the word that holds a device address, to be changed.
    #[inline]
    pub(crate) fn touch(&mut self, address: u64) -> &mut Word {
        *self.page(address) |= TOUCHED;
        self.word(address)
    }

    /// Whether any word of an allocation passes a test; words that nobody has touched are not looked at.
    pub(crate) fn any_touched(&mut self, allocation: &Allocation, test: impl Fn(&Word) -> bool) -> bool {
        let end = allocation.address + allocation.bytes;
        for page in (allocation.address..end).step_by(PAGE as usize) {
            let mut words = (page..end.min(page + PAGE)).step_by(4);
            if *self.page(page) & TOUCHED != 0 && words.any(|at| test(self.word(at))) {
                return true;
            }
        }
        false
    }

    pub(crate) fn used(&self, device: usize) -> u64 {
        self.used[device]
    }

    /// The most bytes of a device that were allocated at a time since this was asked.
    pub(crate) fn take_most_used(&mut self, device: usize) -> u64 {
        std::mem::replace(&mut self.most_used[device], self.used[device])
    }

    pub(crate) fn capacity(&self) -> u64 {
        self.capacity
    }

    /// New memory, there from the moment `born` on (for everybody, where that is nobody's); `None` when the device is full.
    pub(crate) fn allocate(
        &mut self,
        device: usize,
        bytes: u64,
        pool: Option<usize>,
        born: Stamp,
    ) -> Option<u64> {
        let pages = bytes.max(1).next_multiple_of(PAGE);
        let start = self.next[device];
        if self.used[device] + bytes > self.capacity || start + pages + PAGE > REGION {
            return None;
        }
        self.next[device] = start + pages + PAGE;
        self.used[device] += bytes;
        self.most_used[device] = self.most_used[device].max(self.used[device]);
        let address = self.base + REGION * device as u64 + start;
        // SAFETY: inside the region reserved for the device.
        unsafe {
            let at = address as *mut libc::c_void;
            if libc::mprotect(at, pages as usize, libc::PROT_READ | libc::PROT_WRITE) != 0 {
                return None;
            }
            std::ptr::write_bytes(address as *mut u8, POISON, pages as usize);
        }
        for page in (0..bytes).step_by(PAGE as usize) {
            *self.page(address + page) = (bytes - page).min(PAGE) as Page;
        }
        self.allocations.insert(
            address,
            Allocation {
                address,
                bytes,
                device,
                pool,
                born,
                freed: false,
            },
        );
        Some(address)
    }

    /// Ends an allocation. Its pages cannot be touched from now on.
    pub(crate) fn free(&mut self, address: u64) {
        let Some(allocation) = self.allocations.get_mut(&address) else {
            return;
        };
        allocation.freed = true;
        let (device, bytes) = (allocation.device, allocation.bytes);
        self.used[device] -= bytes;
        for page in (0..bytes).step_by(PAGE as usize) {
            *self.page(address + page) = 0;
        }
        let pages = bytes.max(1).next_multiple_of(PAGE);
        let shadow = std::ptr::from_mut(self.word(address));
        // SAFETY: the pages of this allocation and of its shadow, which is a whole number of them; what they hold is
        // given back.
        unsafe {
            libc::madvise(address as *mut libc::c_void, pages as usize, libc::MADV_DONTNEED);
            libc::mprotect(address as *mut libc::c_void, pages as usize, libc::PROT_NONE);
            libc::madvise(shadow.cast(), shadow_bytes(pages) as usize, libc::MADV_DONTNEED);
        }
    }

    /// The allocation that an address lies in, or the last one before it.
    pub(crate) fn near(&self, address: u64) -> Option<&Allocation> {
        self.allocations
            .range(..=address)
            .next_back()
            .map(|(_, allocation)| allocation)
    }

    /// The live allocation that holds a whole range, or why there is none.
    pub(crate) fn holding(&self, address: u64, bytes: u64) -> Result<&Allocation, String> {
        if !self.is_device(address) {
            return Err(format!("{address:#x} is not a device address"));
        }
        match self.near(address) {
            Some(a) if address < a.address + a.bytes.max(1) => {
                if a.freed {
                    Err(format!("{} bytes were freed at this address", a.bytes))
                } else if address + bytes > a.address + a.bytes {
                    let offset = address - a.address;
                    Err(format!(
                        "{bytes} bytes at offset {offset} of an allocation of {}",
                        a.bytes
                    ))
                } else {
                    Ok(a)
                }
            }
            Some(a) => Err(format!(
                "{} bytes behind an allocation of {}",
                address - a.address - a.bytes,
                a.bytes
            )),
            None => Err("before every allocation".into()),
        }
    }

    /// Allocations that were never freed.
    pub(crate) fn leaks(&self) -> impl Iterator<Item = &Allocation> {
        self.allocations.values().filter(|allocation| !allocation.freed)
    }
}
