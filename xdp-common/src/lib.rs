//! What the kernel half and the user half of levee share.
#![no_std]
