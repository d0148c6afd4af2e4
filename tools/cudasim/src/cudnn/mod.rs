//! The part of cuDNN 9 that `verydeep` calls: the graph API for convolutions, pointwise additions and ReLUs, in fp32 and
//! TF32.
//!
//! Descriptors are stored as they are set ([`descriptor`]); finalizing a graph reads them into a program ([`graph`]) and
//! refuses what is wrong or not simulated, with the reason in cudnnGetLastErrorString; the heuristics offer engines
//! ([`engine`]); executing a plan enqueues the program on the handle's stream as one operation that reads and writes the
//! tensors of the variant pack ([`conv`] has the arithmetic).

mod conv;
mod descriptor;
mod engine;
mod graph;

use std::collections::HashMap;
use std::ffi::{c_char, c_int, c_void};
use std::sync::{LazyLock, Mutex, MutexGuard, PoisonError};

use cudarc::cudnn::sys::{
    cudnnBackendAttributeName_t as Name, cudnnBackendDescriptorType_t as Kind, cudnnStatus_t as Status,
};

use self::descriptor::{Descriptor, Id, Payload, size_of_type};
use self::engine::Engine;
use self::graph::{Refusal, Store, Tensor, tensor};
use crate::library::{self, Access, Work};
use crate::sim::variable;

/// 9.10.0, as cudnnGetVersion says it.
const VERSION: u64 = 91_000;

#[derive(Default)]
struct State {
    next: Id,
    descriptors: HashMap<Id, Descriptor>,
    /// Handles and their streams.
    handles: HashMap<Id, usize>,
    last_error: String,
}

fn state() -> MutexGuard<'static, State> {
    static STATE: LazyLock<Mutex<State>> = LazyLock::new(Mutex::default);
    STATE.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Why a call fails: its status, and the text for cudnnGetLastErrorString.
struct Failure(Status, String);

impl From<Refusal> for Failure {
    fn from(text: Refusal) -> Self {
        Self(Status::CUDNN_STATUS_BAD_PARAM, text)
    }
}

/// Runs a call on the state and turns its outcome into a status.
fn answer(call: impl FnOnce(&mut State) -> Result<(), Failure>) -> c_int {
    let mut state = state();
    match call(&mut state) {
        Ok(()) => 0,
        Err(Failure(status, text)) => {
            state.last_error = text;
            status as c_int
        }
    }
}

/// What is left at the end of the process: (handles, descriptors).
pub(crate) fn leaks() -> (usize, usize) {
    let state = state();
    (state.handles.len(), state.descriptors.len())
}

impl State {
    fn name(&mut self) -> Id {
        self.next += 16;
        self.next
    }

    fn descriptor(&mut self, id: *mut c_void) -> Result<&mut Descriptor, Failure> {
        let found = self.descriptors.get_mut(&(id as Id));
        found.ok_or_else(|| Failure(Status::CUDNN_STATUS_BAD_PARAM, "no such descriptor".into()))
    }

    fn finalize(&mut self, id: Id) -> Result<(), Failure> {
        let descriptor = self
            .descriptors
            .get(&id)
            .cloned()
            .ok_or("no such descriptor".to_string())?;
        if descriptor.finalized {
            return Err("finalized twice".to_string().into());
        }
        let store = Store(&self.descriptors);
        let is = |kind: Kind| descriptor.kind == kind as u32;
        let mut payload = descriptor.payload.clone();
        if is(Kind::CUDNN_BACKEND_TENSOR_DESCRIPTOR) {
            tensor(&descriptor)?;
        } else if is(Kind::CUDNN_BACKEND_OPERATIONGRAPH_DESCRIPTOR) {
            self.has_handle(&descriptor, Name::CUDNN_ATTR_OPERATIONGRAPH_HANDLE)?;
            payload = Payload::Graph(store.program(&descriptor)?);
        } else if is(Kind::CUDNN_BACKEND_ENGINEHEUR_DESCRIPTOR) {
            let graph = self.payload_of(&descriptor, Name::CUDNN_ATTR_ENGINEHEUR_OPERATION_GRAPH)?;
            let Payload::Graph(program) = graph else {
                return Err("the heuristics were asked about something else than a graph"
                    .to_string()
                    .into());
            };
            let mode = descriptor.word(Name::CUDNN_ATTR_ENGINEHEUR_MODE as u32);
            let offered = Engine::offered(mode).ok_or("no such heuristics".to_string())?;
            payload = Payload::Offered(program, offered);
        } else if is(Kind::CUDNN_BACKEND_EXECUTION_PLAN_DESCRIPTOR) {
            self.has_handle(&descriptor, Name::CUDNN_ATTR_EXECUTION_PLAN_HANDLE)?;
            payload = self.payload_of(&descriptor, Name::CUDNN_ATTR_EXECUTION_PLAN_ENGINE_CONFIG)?;
        } else if is(Kind::CUDNN_BACKEND_VARIANT_PACK_DESCRIPTOR)
            || is(Kind::CUDNN_BACKEND_CONVOLUTION_DESCRIPTOR)
            || is(Kind::CUDNN_BACKEND_POINTWISE_DESCRIPTOR)
        {
            // Checked where they are used.
        } else {
            store.operation(&descriptor)?;
        }
        let descriptor = self.descriptors.get_mut(&id).expect("it was found above");
        descriptor.payload = payload;
        descriptor.finalized = true;
        Ok(())
    }

    fn has_handle(&self, from: &Descriptor, name: Name) -> Result<(), Refusal> {
        let handle = from
            .addresses(name as u32)
            .and_then(|handles| handles.first().copied());
        match handle.is_some_and(|handle| self.handles.contains_key(&handle)) {
            true => Ok(()),
            false => Err(format!("{name:?}: no such handle")),
        }
    }

    fn payload_of(&self, from: &Descriptor, name: Name) -> Result<Payload, Refusal> {
        let id = from.addresses(name as u32).and_then(|ids| ids.first().copied());
        let found = id
            .and_then(|id| self.descriptors.get(&id))
            .ok_or_else(|| format!("{name:?} is not set"))?;
        Ok(found.payload.clone())
    }

    /// Elements of an attribute that cuDNN answers, as bytes, or descriptors that it fills in.
    fn get(&mut self, id: *mut c_void, name: u32, room: usize, out: *mut c_void) -> Result<usize, Failure> {
        let payload = self.descriptor(id)?.payload.clone();
        let Payload::Engine(program, engine) = payload else {
            return match payload {
                Payload::Offered(program, engines) if name == Name::CUDNN_ATTR_ENGINEHEUR_RESULTS as u32 => {
                    for (i, engine) in engines.iter().enumerate().take(room) {
                        // SAFETY: the caller said that `out` has room for that many descriptors.
                        let config = unsafe { *out.cast::<*mut c_void>().add(i) };
                        self.fill(
                            config,
                            Kind::CUDNN_BACKEND_ENGINECFG_DESCRIPTOR,
                            Payload::Engine(program.clone(), *engine),
                        )?;
                    }
                    Ok(if room == 0 {
                        engines.len()
                    } else {
                        room.min(engines.len())
                    })
                }
                Payload::Knob([number, value]) => {
                    if room > 0 && name == Name::CUDNN_ATTR_KNOB_CHOICE_KNOB_TYPE as u32 {
                        // SAFETY: the caller said that `out` has room for a knob's type.
                        unsafe { *out.cast::<u32>() = number as u32 };
                    } else if room > 0 && name == Name::CUDNN_ATTR_KNOB_CHOICE_KNOB_VALUE as u32 {
                        // SAFETY: the caller said that `out` has room for an integer.
                        unsafe { *out.cast::<i64>() = value };
                    } else {
                        return Err(format!("attribute {name} cannot be read here").into());
                    }
                    Ok(1)
                }
                _ => Err(format!("attribute {name} cannot be read here").into()),
            };
        };
        if name == Name::CUDNN_ATTR_ENGINECFG_ENGINE as u32 {
            if room > 0 {
                // SAFETY: as above.
                let to = unsafe { *out.cast::<*mut c_void>() };
                self.fill(
                    to,
                    Kind::CUDNN_BACKEND_ENGINE_DESCRIPTOR,
                    Payload::Engine(program, engine),
                )?;
            }
            Ok(1)
        } else if name == Name::CUDNN_ATTR_ENGINECFG_KNOB_CHOICES as u32 {
            if room > 0 {
                // SAFETY: as above.
                let to = unsafe { *out.cast::<*mut c_void>() };
                let kind = Kind::CUDNN_BACKEND_KNOB_CHOICE_DESCRIPTOR;
                self.fill(to, kind, Payload::Knob(engine.knob()))?;
            }
            // The real one, too, says 0 to who only asks for the number.
            Ok(room.min(1))
        } else if name == Name::CUDNN_ATTR_ENGINE_NUMERICAL_NOTE as u32 {
            for (i, note) in engine.notes().iter().enumerate().take(room) {
                // SAFETY: the caller said that `out` has room for that many notes.
                unsafe { *out.cast::<u32>().add(i) = *note as u32 };
            }
            Ok(engine.notes().len())
        } else if name == Name::CUDNN_ATTR_ENGINE_GLOBAL_INDEX as u32 {
            if room > 0 {
                // SAFETY: the caller said that `out` has room for an integer.
                unsafe { *out.cast::<i64>() = engine.number() };
            }
            Ok(1)
        } else if name == Name::CUDNN_ATTR_EXECUTION_PLAN_WORKSPACE_SIZE as u32 {
            if room > 0 {
                // SAFETY: the caller said that `out` has room for an integer.
                unsafe { *out.cast::<i64>() = engine.workspace() };
            }
            Ok(1)
        } else {
            Err(format!("attribute {name} cannot be read here").into())
        }
    }

    /// cuDNN writes into a descriptor that the program made.
    fn fill(&mut self, id: *mut c_void, kind: Kind, payload: Payload) -> Result<(), Failure> {
        let descriptor = self.descriptor(id)?;
        if descriptor.kind != kind as u32 {
            return Err(format!("expected a {kind:?} to be filled in").into());
        }
        descriptor.payload = payload;
        descriptor.finalized = true;
        Ok(())
    }

    fn execute(&self, handle: Id, plan: Id, pack: Id) -> Result<(usize, Work), Failure> {
        let stream = *self.handles.get(&handle).ok_or("no such handle".to_string())?;
        let find = |id: Id, what: &str| {
            let found = self
                .descriptors
                .get(&id)
                .filter(|descriptor| descriptor.finalized);
            found.ok_or_else(|| format!("the {what} is missing or not finalized"))
        };
        let (plan, pack) = (find(plan, "plan")?, find(pack, "variant pack")?);
        let Payload::Engine(program, engine) = plan.payload.clone() else {
            return Err("the plan has no engine".to_string().into());
        };
        let uids = pack
            .integers(Name::CUDNN_ATTR_VARIANT_PACK_UNIQUE_IDS as u32)
            .unwrap_or_default();
        let pointers = pack
            .addresses(Name::CUDNN_ATTR_VARIANT_PACK_DATA_POINTERS as u32)
            .unwrap_or_default();
        if uids.len() != pointers.len() {
            return Err(format!("{} names for {} pointers", uids.len(), pointers.len()).into());
        }
        let addresses: HashMap<i64, usize> = uids.into_iter().zip(pointers).collect();
        let access = |tensor: &Tensor| -> Result<Access, Failure> {
            let address = *addresses
                .get(&tensor.uid)
                .ok_or_else(|| format!("tensor {} has no pointer", tensor.uid))?;
            if !address.is_multiple_of(tensor.alignment as usize) {
                let text = format!(
                    "tensor {} is not aligned to {} bytes",
                    tensor.uid, tensor.alignment
                );
                return Err(Failure(Status::CUDNN_STATUS_BAD_PARAM_MISALIGNED_POINTER, text));
            }
            Ok(Access {
                address: address as u64,
                bytes: tensor.span(),
            })
        };
        let (reads, writes) = program.tensors();
        let reads = reads.into_iter().map(access).collect::<Result<Vec<_>, _>>()?;
        let mut writes = writes.into_iter().map(access).collect::<Result<Vec<_>, _>>()?;
        let workspace = pack
            .addresses(Name::CUDNN_ATTR_VARIANT_PACK_WORKSPACE as u32)
            .unwrap_or_default();
        writes.push(Access {
            address: workspace.first().copied().unwrap_or(0) as u64,
            bytes: engine.workspace() as usize,
        });
        let rounding = engine
            .rounding()
            .ok_or_else(|| format!("the simulator does not execute the engine {engine:?}"))?;
        let run = Box::new(move || program.run(&addresses, rounding));
        Ok((
            stream,
            Work {
                name: "cuDNN graph".into(),
                reads,
                writes,
                run,
            },
        ))
    }
}

/// `size_t cudnnGetVersion(void)`.
#[unsafe(no_mangle)]
pub extern "C" fn cudnnGetVersion() -> usize {
    variable("CUDASIM_CUDNN", VERSION) as usize
}

/// Copies the reason of the last failure, NUL-terminated.
///
/// # Safety
///
/// `message` has room for `max_size` bytes.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn cudnnGetLastErrorString(message: *mut c_char, max_size: usize) {
    let text = state().last_error.clone();
    let length = text.len().min(max_size.saturating_sub(1));
    if max_size > 0 {
        // SAFETY: the caller vouches for the room.
        unsafe {
            std::ptr::copy_nonoverlapping(text.as_ptr().cast(), message, length);
            *message.add(length) = 0;
        }
    }
}

/// # Safety
///
/// `handle` points to a handle.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn cudnnCreate(handle: *mut *mut c_void) -> c_int {
    answer(|state| {
        if !library::can_start() {
            return Err(Failure(
                Status::CUDNN_STATUS_NOT_INITIALIZED,
                "no context is current, or CUDASIM_FAIL says so".into(),
            ));
        }
        let id = state.name();
        state.handles.insert(id, 0);
        // SAFETY: the caller vouches for it.
        unsafe { *handle = id as *mut c_void };
        Ok(())
    })
}

/// `cudnnStatus_t cudnnDestroy(cudnnHandle_t)`.
#[unsafe(no_mangle)]
pub extern "C" fn cudnnDestroy(handle: *mut c_void) -> c_int {
    answer(|state| match state.handles.remove(&(handle as Id)) {
        Some(_) => Ok(()),
        None => Err("no such handle".to_string().into()),
    })
}

/// `cudnnStatus_t cudnnSetStream(cudnnHandle_t, cudaStream_t)`.
#[unsafe(no_mangle)]
pub extern "C" fn cudnnSetStream(handle: *mut c_void, stream: *mut c_void) -> c_int {
    answer(|state| {
        let bound = state
            .handles
            .get_mut(&(handle as Id))
            .ok_or("no such handle".to_string())?;
        *bound = stream as usize;
        Ok(())
    })
}

/// # Safety
///
/// `descriptor` points to a descriptor.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn cudnnBackendCreateDescriptor(kind: c_int, descriptor: *mut *mut c_void) -> c_int {
    answer(|state| {
        let id = state.name();
        let made = Descriptor {
            kind: kind as u32,
            ..Descriptor::default()
        };
        state.descriptors.insert(id, made);
        // SAFETY: the caller vouches for it.
        unsafe { *descriptor = id as *mut c_void };
        Ok(())
    })
}

/// `cudnnStatus_t cudnnBackendDestroyDescriptor(cudnnBackendDescriptor_t)`.
#[unsafe(no_mangle)]
pub extern "C" fn cudnnBackendDestroyDescriptor(descriptor: *mut c_void) -> c_int {
    answer(|state| match state.descriptors.remove(&(descriptor as Id)) {
        Some(_) => Ok(()),
        None => Err("no such descriptor".to_string().into()),
    })
}

/// # Safety
///
/// `elements` points to `count` elements of the type that `ty` names.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn cudnnBackendSetAttribute(
    descriptor: *mut c_void,
    name: c_int,
    ty: c_int,
    count: i64,
    elements: *const c_void,
) -> c_int {
    answer(|state| {
        let descriptor = state.descriptor(descriptor)?;
        if descriptor.finalized {
            return Err("set after it was finalized".to_string().into());
        }
        let size = size_of_type(ty as u32).ok_or_else(|| format!("attribute type {ty} is not simulated"))?;
        let count = count.max(0) as usize;
        // SAFETY: the caller vouches for the elements.
        let bytes = unsafe { std::slice::from_raw_parts(elements.cast::<u8>(), count * size) }.to_vec();
        descriptor.attributes.insert(name as u32, bytes);
        Ok(())
    })
}

/// `cudnnStatus_t cudnnBackendFinalize(cudnnBackendDescriptor_t)`.
#[unsafe(no_mangle)]
pub extern "C" fn cudnnBackendFinalize(descriptor: *mut c_void) -> c_int {
    answer(|state| state.finalize(descriptor as Id))
}

/// # Safety
///
/// `found` points to an integer, `elements` to room for `requested` elements.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn cudnnBackendGetAttribute(
    descriptor: *mut c_void,
    name: c_int,
    _ty: c_int,
    requested: i64,
    found: *mut i64,
    elements: *mut c_void,
) -> c_int {
    answer(|state| {
        let count = state.get(descriptor, name as u32, requested.max(0) as usize, elements)?;
        // SAFETY: the caller vouches for it.
        unsafe { *found = count as i64 };
        Ok(())
    })
}

/// `cudnnStatus_t cudnnBackendExecute(cudnnHandle_t, plan, variantPack)`.
#[unsafe(no_mangle)]
pub extern "C" fn cudnnBackendExecute(handle: *mut c_void, plan: *mut c_void, pack: *mut c_void) -> c_int {
    answer(|state| {
        let (stream, work) = state.execute(handle as Id, plan as Id, pack as Id)?;
        library::enqueue(stream, work).map_err(|why| {
            Failure(
                Status::CUDNN_STATUS_EXECUTION_FAILED,
                format!("the driver said {why:?}"),
            )
        })
    })
}
