//! levee controller.
