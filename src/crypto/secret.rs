//! Key bytes in memory: wiped on drop, never printed, cloned or compared by accident.

use zeroize::Zeroize;

/// `N` secret bytes.
pub struct Secret<const N: usize>(Box<[u8; N]>);

impl<const N: usize> Secret<N> {
    /// Makes a secret by filling it in place, so that no copy stays behind on the stack.
    pub fn fill_with(fill: impl FnOnce(&mut [u8; N])) -> Self {
        let mut secret = Secret(Box::new([0; N]));
        fill(&mut secret.0);
        secret
    }

    /// As [`fill_with`](Self::fill_with), where filling may fail.
    ///
    /// # Errors
    /// That of `fill`.
    pub fn try_fill_with<E>(fill: impl FnOnce(&mut [u8; N]) -> Result<(), E>) -> Result<Self, E> {
        let mut secret = Secret(Box::new([0; N]));
        fill(&mut secret.0)?;
        Ok(secret)
    }

    /// Makes a random secret.
    pub fn random() -> Self {
        Self::fill_with(|bytes| super::random(bytes))
    }

    /// The bytes. Each use is short and says by its place what they are for.
    pub fn expose(&self) -> &[u8; N] {
        &self.0
    }
}

impl<const N: usize> Drop for Secret<N> {
    fn drop(&mut self) {
        self.0.zeroize();
    }
}

impl<const N: usize> std::fmt::Debug for Secret<N> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Secret<{N}>(..)")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_secret_is_never_printed() {
        let secret = Secret::<4>::fill_with(|b| b.copy_from_slice(&[171, 205, 171, 205]));
        assert_eq!(format!("{secret:?}"), "Secret<4>(..)");
        assert_eq!(secret.expose(), &[171, 205, 171, 205]);
    }

    #[test]
    fn random_secrets_differ() {
        assert_ne!(Secret::<32>::random().expose(), Secret::<32>::random().expose());
    }
}
