//! Key bytes in memory: locked, left out of core dumps, wiped on drop, never printed, cloned or compared by accident.

/// `N` secret bytes.
pub struct Secret<const N: usize>(Box<[u8; N]>);

impl<const N: usize> Secret<N> {
    /// Makes a secret by filling it in place.
    pub fn fill_with(_fill: impl FnOnce(&mut [u8; N])) -> Self {
        todo!()
    }

    /// Makes a random secret.
    pub fn random() -> Self {
        todo!()
    }

    /// The bytes. Each use is short and says by its place what they are for.
    pub fn expose(&self) -> &[u8; N] {
        &self.0
    }
}

impl<const N: usize> std::fmt::Debug for Secret<N> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Secret<{N}>(..)")
    }
}
