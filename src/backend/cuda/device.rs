//! The devices of this machine.

use cudarc::driver::sys::CUdevice_attribute_enum as Attribute;
use cudarc::driver::{CudaContext, DriverError, result};
use serde::Serialize;

use super::libraries::{Libraries, Library};
use crate::error::{Error, Result};

/// What the driver says of a device.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct DeviceFacts {
    /// The number in `cuda:N`.
    pub ordinal: usize,
    /// What tells it from every other device: its UUID, in hexadecimal digits.
    pub uuid: String,
    /// Marketing name.
    pub name: String,
    /// Major and minor; 9, 0 is Hopper.
    pub compute_capability: (u32, u32),
    /// Global memory.
    pub memory_bytes: u64,
    /// Streaming multiprocessors.
    pub multiprocessors: u32,
}

impl DeviceFacts {
    /// `sm_90`: what kernels are compiled for.
    pub fn architecture(&self) -> String {
        let (major, minor) = self.compute_capability;
        format!("sm_{major}{minor}")
    }

    /// Refuses a device whose instructions nothing here is built for.
    pub fn refuse_if_too_old(&self) -> Result<()> {
        if self.compute_capability >= OLDEST_CAPABILITY {
            return Ok(());
        }
        let ((major, minor), (oldest, of_it)) = (self.compute_capability, OLDEST_CAPABILITY);
        Err(Error::Device {
            device: format!("cuda:{}", self.ordinal),
            reason: format!(
                "{} has compute capability {major}.{minor}, expected at least {oldest}.{of_it}",
                self.name
            ),
        })
    }
}

/// The oldest devices whose instructions our kernels and the deterministic plans are built for.
pub const OLDEST_CAPABILITY: (u32, u32) = (8, 0);

/// All devices that the driver shows, in its order. Fails where there is no driver, or the driver has no device.
pub fn devices(libraries: &Libraries) -> Result<Vec<DeviceFacts>> {
    libraries.need(Library::Driver)?;
    result::init().map_err(|why| failed("cuda", "the driver does not start", &why))?;
    let count = CudaContext::device_count().map_err(|why| failed("cuda", "counting devices", &why))?;
    (0..count.unsigned_abs() as usize)
        .map(|ordinal| {
            facts(ordinal)
                .map_err(|why| failed(&format!("cuda:{ordinal}"), "asking for its properties", &why))
        })
        .collect()
}

fn facts(ordinal: usize) -> Result<DeviceFacts, DriverError> {
    let device = result::device::get(ordinal as i32)?;
    // SAFETY: `device` comes from the driver.
    let number =
        |attribute| unsafe { result::device::get_attribute(device, attribute) }.map(i32::unsigned_abs);
    Ok(DeviceFacts {
        ordinal,
        uuid: result::device::get_uuid(device)?
            .bytes
            .iter()
            .map(|byte| format!("{:02x}", *byte as u8))
            .collect(),
        name: result::device::get_name(device)?,
        compute_capability: (
            number(Attribute::CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR)?,
            number(Attribute::CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MINOR)?,
        ),
        // SAFETY: as above.
        memory_bytes: unsafe { result::device::total_mem(device) }? as u64,
        multiprocessors: number(Attribute::CU_DEVICE_ATTRIBUTE_MULTIPROCESSOR_COUNT)?,
    })
}

/// A driver's error, with the device and what was being done.
pub(super) fn failed(device: &str, doing: &str, why: &DriverError) -> Error {
    let text = why
        .error_string()
        .map_or_else(|_| String::new(), |text| text.to_string_lossy().into_owned());
    Error::Device {
        device: device.into(),
        reason: format!("{doing}: {:?}: {text}", why.0),
    }
}
