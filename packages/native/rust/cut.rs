//! A stream that can be cut. A session of SSH is a task that ends when its stream does, and in no other way that does not depend
//! on its peer.

use std::future::Future;
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio_util::sync::{CancellationToken, WaitForCancellationFutureOwned};

/// Any stream, as one type: a session is large, and compiled once.
pub(crate) trait Wire: AsyncRead + AsyncWrite + Unpin + Send {}

impl<S: AsyncRead + AsyncWrite + Unpin + Send> Wire for S {}

/// Fails from the moment of a cancel on, whatever it waits for.
pub(crate) struct Cut {
    stream: Box<dyn Wire>,
    cut: Pin<Box<WaitForCancellationFutureOwned>>,
}

impl Cut {
    pub(crate) fn new(stream: Box<dyn Wire>, ending: &CancellationToken) -> Self {
        Self { stream, cut: Box::pin(ending.clone().cancelled_owned()) }
    }

    fn check(&mut self, context: &mut Context<'_>) -> io::Result<()> {
        match self.cut.as_mut().poll(context) {
            Poll::Ready(()) => Err(io::ErrorKind::ConnectionAborted.into()),
            Poll::Pending => Ok(()),
        }
    }
}

impl AsyncRead for Cut {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        self.check(context)?;
        Pin::new(&mut self.stream).poll_read(context, buffer)
    }
}

impl AsyncWrite for Cut {
    fn poll_write(mut self: Pin<&mut Self>, context: &mut Context<'_>, buffer: &[u8]) -> Poll<io::Result<usize>> {
        self.check(context)?;
        Pin::new(&mut self.stream).poll_write(context, buffer)
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.check(context)?;
        Pin::new(&mut self.stream).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(context)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(flavor = "current_thread")]
    async fn a_stream_fails_from_the_moment_of_a_cancel_on() {
        use tokio::io::{AsyncReadExt, AsyncWriteExt};
        let (ours, mut theirs) = tokio::io::duplex(64);
        let ending = CancellationToken::new();
        let mut stream = Cut::new(Box::new(ours), &ending);
        assert!(theirs.write_all(b"word").await.is_ok());
        let mut word = [0; 4];
        assert!(stream.read_exact(&mut word).await.is_ok());
        ending.cancel();
        assert!(stream.read_exact(&mut word).await.is_err());
        assert!(stream.write_all(b"word").await.is_err());
    }
}
