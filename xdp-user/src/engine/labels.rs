//! Enums whose values are known by a label.

/// Declares an enum with labels, a list of all its values and the position of each in it.
macro_rules! labels {
    ($(#[$meta:meta])* $name:ident { $($(#[$doc:meta])* $variant:ident = $label:literal,)* }) => {
        $(#[$meta])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        pub enum $name {
            $($(#[$doc])* $variant,)*
        }

        impl $name {
            /// All of them, in the order of their [index](Self::index).
            pub const ALL: &[Self] = &[$(Self::$variant,)*];

            /// How many there are.
            pub const COUNT: usize = Self::ALL.len();

            /// Position in [`ALL`](Self::ALL).
            #[must_use]
            pub const fn index(self) -> usize {
                self as usize
            }

            /// How metrics and operators name it.
            #[must_use]
            pub const fn label(self) -> &'static str {
                match self {
                    $(Self::$variant => $label,)*
                }
            }
        }
    };
}
