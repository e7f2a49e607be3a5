//! A window over the input: enough bytes in one piece, no copy per packet.

use std::io::{ErrorKind, Read};

use crate::Damage;

const CHUNK: usize = 256 * 1024;

/// Reads ahead in large pieces and hands out slices of its buffer.
pub(crate) struct Input<R> {
    inner: R,
    buf: Vec<u8>,
    start: usize,
    end: usize,
    /// File offset of `buf[start]`.
    offset: u64,
    /// File offset of the record or block being read.
    mark: u64,
}

impl<R: Read> Input<R> {
    pub(crate) fn new(inner: R) -> Self {
        Input {
            inner,
            buf: vec![0; CHUNK],
            start: 0,
            end: 0,
            offset: 0,
            mark: 0,
        }
    }

    /// A record or block starts here: what is wrong in it will be reported here.
    #[inline]
    pub(crate) fn begin(&mut self) {
        self.mark = self.offset;
    }

    /// File offset of the last [`Input::begin`].
    pub(crate) fn mark(&self) -> u64 {
        self.mark
    }

    /// File offset of the first byte of [`Input::bytes`].
    pub(crate) fn offset(&self) -> u64 {
        self.offset
    }

    /// What is in the window.
    #[inline]
    pub(crate) fn bytes(&self) -> &[u8] {
        self.buf.get(self.start..self.end).unwrap_or(&[])
    }

    /// Moves past `n` bytes of the window.
    #[inline]
    pub(crate) fn consume(&mut self, n: usize) {
        let n = n.min(self.end - self.start);
        self.start += n;
        self.offset += n as u64;
    }

    /// Fills the window to at least `n` bytes; returns how many there are, fewer than
    /// `n` only at the end of the file. The buffer grows to `n` when it must: callers
    /// check claimed lengths against a limit first.
    #[inline]
    pub(crate) fn fill(&mut self, n: usize) -> Result<usize, Damage> {
        if self.end - self.start >= n {
            return Ok(self.end - self.start);
        }
        self.fill_slowly(n)
    }

    fn fill_slowly(&mut self, n: usize) -> Result<usize, Damage> {
        self.buf.copy_within(self.start..self.end, 0);
        self.end -= self.start;
        self.start = 0;
        if n > self.buf.len() {
            self.buf.resize(n, 0);
        }
        while self.end < n {
            match self.inner.read(&mut self.buf[self.end..]) {
                Ok(0) => break,
                Ok(got) => self.end = self.buf.len().min(self.end + got),
                Err(e) if e.kind() == ErrorKind::Interrupted => {}
                Err(e) => return Err(Damage::Io(e)),
            }
        }
        Ok(self.end)
    }

    /// Fills the window to `n` bytes of `part` or says how it is cut short.
    #[inline]
    pub(crate) fn need(&mut self, n: usize, part: &'static str) -> Result<(), Damage> {
        let left = self.fill(n)?;
        if left < n {
            return Err(cut(part, n as u64, left as u64));
        }
        Ok(())
    }

    /// Moves past `n` bytes without keeping them.
    pub(crate) fn skip(&mut self, n: u64, part: &'static str) -> Result<(), Damage> {
        let mut todo = n;
        while todo > 0 {
            let have = self.fill(1)?;
            if have == 0 {
                return Err(cut(part, n, n - todo));
            }
            let step = usize::try_from(todo).map_or(have, |t| t.min(have));
            self.consume(step);
            todo -= step as u64;
        }
        Ok(())
    }
}

fn cut(part: &'static str, needed: u64, left: u64) -> Damage {
    Damage::CutShort { part, needed, left }
}
