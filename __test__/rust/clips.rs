//! Made videos whose every picture carries its own number, so that a test can tell which picture was stored.
//!
//! A picture has a row of blocks at its top: white, black, then the bits of its number, lowest first, in an order
//! that no flip or turn leaves as it is. Below lies a field of blocks that are alike in no two places, for offsets,
//! and a bar that moves, so that encoders have something to predict.

use std::fs;
use std::hash::{DefaultHasher, Hash as _, Hasher as _};
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use captionacc::picture::RgbPicture;

/// Part of a clip's key: raise it when pictures are drawn in another way.
const DRAWING_VERSION: u32 = 1;
const NUMBER_BITS: usize = 10;
const BLOCKS: usize = NUMBER_BITS + 2;

/// A video to make.
#[derive(Debug, Clone, Copy, Hash)]
pub struct Clip {
    pub name: &'static str,
    pub extension: &'static str,
    /// Stored pixels.
    pub size: (usize, usize),
    /// As ffmpeg has it, `30000/1001`.
    pub rate: &'static str,
    pub pictures: usize,
    /// What comes between ffmpeg's input and its output.
    pub arguments: &'static str,
}

impl Clip {
    /// The video, made now or in an earlier run of the tests.
    pub fn path(&self) -> PathBuf {
        let mut hasher = DefaultHasher::new();
        (DRAWING_VERSION, self).hash(&mut hasher);
        let name = format!("{}-{:016x}.{}", self.name, hasher.finish(), self.extension);
        cached(&name, |path| self.make(path))
    }

    fn make(&self, path: &Path) {
        let (width, height) = self.size;
        let mut ffmpeg = Command::new("ffmpeg")
            .args(["-v", "error", "-y", "-f", "rawvideo", "-pix_fmt", "yuv420p"])
            .args(["-s", &format!("{width}x{height}"), "-r", self.rate, "-i", "-"])
            .args(self.arguments.split_whitespace())
            .arg(path)
            .stdin(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .expect("the ffmpeg command is installed");
        let mut stdin = ffmpeg.stdin.take().expect("piped");
        for number in 0..self.pictures {
            // ffmpeg may have what it wants already (-t, -frames:v); its exit code tells what matters.
            if stdin.write_all(&draw(number, width, height)).is_err() {
                break;
            }
        }
        drop(stdin);
        let output = ffmpeg.wait_with_output().expect("ffmpeg ends");
        assert!(
            output.status.success(),
            "{self:?}: {}",
            String::from_utf8_lossy(&output.stderr)
        );
    }
}

/// A file of the cache, made by `make` at a path of its own if it is not there yet.
pub fn cached(name: &str, make: impl FnOnce(&Path)) -> PathBuf {
    let default = Path::new(env!("CARGO_MANIFEST_DIR")).join(".cache");
    let folder = std::env::var_os("CAPTIONACC_CACHE")
        .map_or(default, PathBuf::from)
        .join("clips");
    let path = folder.join(name);
    if !path.is_file() {
        fs::create_dir_all(&folder).expect("the cache is ours");
        let making = tempfile::tempdir_in(&folder).expect("the cache is ours");
        let unfinished = making.path().join(name);
        make(&unfinished);
        // Several tests may make the same one at a time: the last one stays, and all are alike.
        fs::rename(&unfinished, &path).expect("on one disk");
    }
    path
}

fn draw(number: usize, width: usize, height: usize) -> Vec<u8> {
    let code_rows = height / 6;
    let bar = number * 3 % width;
    let mut bytes = Vec::with_capacity(width * height * 3 / 2);
    for y in 0..height {
        for x in 0..width {
            bytes.push(if y < code_rows {
                if is_white(x * BLOCKS / width, number) { 235 } else { 16 }
            } else if x >= bar && x < bar + 6 {
                200
            } else {
                let block = (x / 8) * 131 + (y / 8) * 977;
                u8::try_from(50 + block * block % 127).expect("below 177")
            });
        }
    }
    for plane in [40, 73] {
        for y in 0..height.div_ceil(2) {
            for x in 0..width.div_ceil(2) {
                let block = (x / 8) * plane + (y / 8) * 29;
                bytes.push(u8::try_from(90 + block % 77).expect("below 167"));
            }
        }
    }
    bytes
}

fn is_white(block: usize, number: usize) -> bool {
    match block {
        0 => true,
        1 => false,
        bit => number >> (bit - 2) & 1 == 1,
    }
}

/// The number that a picture carries; `None` if there is none.
pub fn number_of(picture: &RgbPicture) -> Option<usize> {
    let (width, height) = (picture.width as usize, picture.height as usize);
    let row = height / 12;
    let mut number = 0;
    for block in 0..BLOCKS {
        let column = (2 * block + 1) * width / (2 * BLOCKS);
        let green = picture.data[(row * width + column) * 3 + 1];
        let white = match green {
            0..=79 => false,
            176..=255 => true,
            _ => return None,
        };
        match block {
            0 if !white => return None,
            1 if white => return None,
            0 | 1 => {}
            bit => number |= usize::from(white) << (bit - 2),
        }
    }
    Some(number)
}

/// The pictures that `ffmpeg -vf FILTER` gives, as RGB.
pub fn reference(path: &Path, filter: &str, width: u32, height: u32) -> Vec<RgbPicture> {
    let output = Command::new("ffmpeg")
        .args(["-v", "error", "-i"])
        .arg(path)
        .args(["-an", "-vf", filter, "-fps_mode", "passthrough"])
        .args(["-f", "rawvideo", "-pix_fmt", "rgb24", "-"])
        .output()
        .expect("the ffmpeg command is installed");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let bytes = width as usize * height as usize * 3;
    assert_eq!(output.stdout.len() % bytes, 0, "pictures of {width}x{height}");
    let picture = |data: &[u8]| RgbPicture {
        width,
        height,
        data: data.to_vec(),
    };
    output.stdout.chunks(bytes).map(picture).collect()
}

/// Mean difference of two pictures' bytes, 0 to 255.
pub fn difference(one: &RgbPicture, other: &RgbPicture) -> f64 {
    assert_eq!((one.width, one.height), (other.width, other.height));
    let pairs = one.data.iter().zip(&other.data);
    let sum: u64 = pairs.map(|(a, b)| u64::from(a.abs_diff(*b))).sum();
    #[expect(clippy::cast_precision_loss, reason = "sums of bytes")]
    let mean = sum as f64 / one.data.len() as f64;
    mean
}

/// `picture` turned as a display matrix with these four numbers has it: stored (x, y) is shown at (ax + cy, bx + dy).
pub fn turned(picture: &RgbPicture, [a, b, c, d]: [i32; 4]) -> RgbPicture {
    let (stored_width, stored_height) = (picture.width.cast_signed(), picture.height.cast_signed());
    let (width, height) = if a == 0 {
        (stored_height, stored_width)
    } else {
        (stored_width, stored_height)
    };
    let mut data = vec![0; picture.data.len()];
    for y in 0..stored_height {
        for x in 0..stored_width {
            let mut shown_x = a * x + c * y;
            let mut shown_y = b * x + d * y;
            if a + c < 0 {
                shown_x += width - 1;
            }
            if b + d < 0 {
                shown_y += height - 1;
            }
            let at = |x: i32, y: i32, width: i32| usize::try_from(y * width + x).expect("within the picture") * 3;
            let (from, to) = (at(x, y, stored_width), at(shown_x, shown_y, width));
            data[to..to + 3].copy_from_slice(&picture.data[from..from + 3]);
        }
    }
    RgbPicture {
        width: width.cast_unsigned(),
        height: height.cast_unsigned(),
        data,
    }
}

/// The part of a picture from (left, top) on.
pub fn part(picture: &RgbPicture, left: u32, top: u32, width: u32, height: u32) -> RgbPicture {
    let row = |y: u32| ((y * picture.width + left) * 3) as usize;
    let rows = (top..top + height).flat_map(|y| &picture.data[row(y)..row(y) + width as usize * 3]);
    RgbPicture {
        width,
        height,
        data: rows.copied().collect(),
    }
}

/// `mp4` with the display matrix of its first track set to these four numbers.
pub fn with_matrix(mut mp4: Vec<u8>, [a, b, c, d]: [i32; 4]) -> Vec<u8> {
    let header = mp4.windows(4).position(|word| word == b"tkhd").expect("a track header");
    // Version 0: flags, two times, id, reserved, duration, 8 reserved, layer, group, volume, reserved.
    let matrix = header + 4 + 4 + 4 + 4 + 4 + 4 + 4 + 8 + 8;
    for (index, number) in [(0, a), (1, b), (3, c), (4, d)] {
        let at = matrix + index * 4;
        mp4[at..at + 4].copy_from_slice(&(number << 16).to_be_bytes());
    }
    mp4
}
