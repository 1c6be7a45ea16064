//! Where an export goes: stdout, or a file that has its name only when it is whole.

use crate::errors::Stop;
use std::{
    fs::File,
    io::{self, BufWriter, Write},
    path::{Path, PathBuf},
};

/// An export's end.
pub(super) enum Target<'a> {
    /// Stdout.
    Printer(&'a mut dyn Write),
    /// A file under another name, and the name that it will have.
    File { writer: BufWriter<File>, unfinished: PathBuf, path: PathBuf },
}

impl<'a> Target<'a> {
    /// Opens the file, or takes `out` for `-`.
    ///
    /// # Errors
    /// Failed, with the name, if it cannot be made.
    pub(super) fn open(path: &Path, out: &'a mut dyn Write) -> Result<Self, Stop> {
        if path == Path::new("-") {
            return Ok(Self::Printer(out));
        }
        let mut unfinished = path.as_os_str().to_owned();
        unfinished.push(".unfinished");
        let unfinished = PathBuf::from(unfinished);
        let file = File::create(&unfinished).map_err(|error| cannot(path, &error))?;
        Ok(Self::File { writer: BufWriter::new(file), unfinished, path: path.to_owned() })
    }

    /// Gives it its name.
    ///
    /// # Errors
    /// Failed if what was written does not stay.
    pub(super) fn finish(self) -> Result<(), Stop> {
        match self {
            Self::Printer(out) => Ok(out.flush()?),
            Self::File { writer, unfinished, path } => {
                let done = writer.into_inner().map_err(io::IntoInnerError::into_error).and_then(|file| {
                    file.sync_all()?;
                    std::fs::rename(&unfinished, &path)
                });
                done.map_err(|error| cannot(&path, &error))
            }
        }
    }
}

fn cannot(path: &Path, error: &io::Error) -> Stop {
    Stop::failed(format!(
        "`{}` cannot be written: {error}; choose a folder that exists and has room",
        path.display()
    ))
}

impl Write for Target<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        match self {
            Self::Printer(out) => out.write(bytes),
            Self::File { writer, .. } => writer.write(bytes),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        match self {
            Self::Printer(out) => out.flush(),
            Self::File { writer, .. } => writer.flush(),
        }
    }
}
