// SPDX-License-Identifier: GPL-2.0

//! A character device whose only method is `unlocked_ioctl`, with a major number of the kernel's choice: user space
//! finds it in `/proc/devices` and makes the node itself, so no device class is needed.

use crate::compat;
use core::ffi::CStr;
use core::marker::PhantomData;
use kernel::bindings;
use kernel::ffi::{c_long, c_uint, c_ulong, c_void};
use kernel::prelude::*;

/// The ioctls of a device.
pub(crate) trait Ioctl {
    /// Name in `/proc/devices`.
    const NAME: &'static CStr;

    /// Executes one. Called in process context, by several threads at once.
    fn ioctl(command: u32, arg: usize) -> Result<c_long>;
}

/// A registered device; dropping it unregisters.
///
/// # Invariants
///
/// `major` was registered with `_fops`, which stays until the device is unregistered. Open files hold a reference to the
/// module (`owner`), so this is dropped when there are none.
pub(crate) struct Chrdev<T: Ioctl> {
    major: c_uint,
    _fops: KBox<bindings::file_operations>,
    methods: PhantomData<T>,
}

// SAFETY: nothing in it is bound to a thread.
unsafe impl<T: Ioctl> Send for Chrdev<T> {}
// SAFETY: a shared reference gives nothing.
unsafe impl<T: Ioctl> Sync for Chrdev<T> {}

impl<T: Ioctl> Chrdev<T> {
    /// Registers the device; ioctls may come before this returns.
    pub(crate) fn register(module: &'static ThisModule) -> Result<Self> {
        // SAFETY: null pointers and absent methods are valid.
        let mut fops: bindings::file_operations = unsafe { compat::zeroed() };
        fops.owner = module.as_ptr();
        fops.unlocked_ioctl = Some(unlocked_ioctl::<T>);
        let fops = KBox::new(fops, GFP_KERNEL)?;
        // SAFETY: name and methods outlive the registration: one is static, the others are kept in the result.
        let major = unsafe { bindings::__register_chrdev(0, 0, 1, T::NAME.as_ptr().cast(), &*fops) };
        if major < 0 {
            return Err(Error::from_errno(major));
        }
        // INVARIANT: just registered.
        Ok(Chrdev { major: major as c_uint, _fops: fops, methods: PhantomData })
    }
}

impl<T: Ioctl> Drop for Chrdev<T> {
    fn drop(&mut self) {
        // SAFETY: registered with these numbers and this name (type invariant).
        unsafe { bindings::__unregister_chrdev(self.major, 0, 1, T::NAME.as_ptr().cast()) };
    }
}

unsafe extern "C" fn unlocked_ioctl<T: Ioctl>(
    _file: *mut bindings::file,
    command: c_uint,
    arg: c_ulong,
) -> c_long {
    T::ioctl(command, arg).unwrap_or_else(|error| error.to_errno() as c_long)
}

/// Reads a plain structure from user memory.
///
/// # Safety
///
/// Any bytes must be a valid `T`.
pub(crate) unsafe fn read_user<T>(arg: usize) -> Result<T> {
    let mut value = core::mem::MaybeUninit::<T>::uninit();
    // SAFETY: the destination has room for `T`; the source is checked by copy_from_user().
    let n_left =
        unsafe { bindings::copy_from_user(value.as_mut_ptr().cast(), arg as *const c_void, size_of::<T>()) };
    if n_left != 0 {
        return Err(EFAULT);
    }
    // SAFETY: every byte was written, and any bytes will do.
    Ok(unsafe { value.assume_init() })
}

/// Writes a plain structure to user memory.
///
/// # Safety
///
/// `T` must have no padding.
pub(crate) unsafe fn write_user<T>(arg: usize, value: &T) -> Result {
    // SAFETY: the source is a whole `T` without padding; the destination is checked by copy_to_user().
    let n_left =
        unsafe { bindings::copy_to_user(arg as *mut c_void, (&raw const *value).cast(), size_of::<T>()) };
    if n_left == 0 {
        Ok(())
    } else {
        Err(EFAULT)
    }
}
