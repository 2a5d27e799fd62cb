//! Text that must not be in a public repository: vehicles' identities and somebody's own folders.

use crate::sources::{Source, is_recorded_data, made_up, text_files};
use crate::{Finding, assert_clean};

/// ISO 3779.
const VIN_LENGTH: usize = 17;

/// Below this a word of 17 characters is a word or a number, not a VIN.
const VIN_DIGITS_MIN: usize = 4;
const VIN_LETTERS_MIN: usize = 4;

/// No manufacturer has this code: the VINs that we make up begin with it.
const SYNTHETIC_VIN: &str = "CNVY";

/// Put together so that this file does not hold them itself.
const PRIVATE_PATHS: [&str; 2] = [concat!("/wo", "rk/"), concat!("../sha", "red")];

#[test]
fn no_vehicle_is_named_outside_the_recorded_logs() {
    let files = text_files();
    let findings: Vec<Finding> =
        files.iter().filter(|file| may_name_no_vehicle(&file.path)).flat_map(vins).collect();
    assert_clean(&findings, "a VIN is personal data; made-up ones begin with CNVY");
}

#[test]
fn no_file_points_into_somebodys_own_folders() {
    let findings: Vec<Finding> = text_files().iter().flat_map(private_paths).collect();
    assert_clean(
        &findings,
        "the repository stands alone: what it needs is in it, and nobody else has that folder",
    );
}

fn may_name_no_vehicle(path: &str) -> bool {
    let read_by_people = [".rs", ".md", ".toml"].iter().any(|ending| path.ends_with(ending));
    read_by_people && !is_recorded_data(path)
}

fn vins(source: &Source) -> Vec<Finding> {
    let mut findings = Vec::new();
    for (index, line) in source.text.lines().enumerate() {
        let words = line.split(|character: char| !character.is_alphanumeric() && character != '_');
        for word in words.filter(|word| is_vin_shaped(word)) {
            // The message goes into logs, so it shows the manufacturer's part only.
            let what = format!("{}… has the shape of a VIN", &word[..3]);
            findings.push(Finding::new(&source.path, index + 1, what));
        }
    }
    findings
}

fn is_vin_shaped(word: &str) -> bool {
    let of_vin = |byte: u8| byte.is_ascii_digit() || (byte.is_ascii_uppercase() && !b"IOQ".contains(&byte));
    let digits = word.bytes().filter(u8::is_ascii_digit).count();
    word.len() == VIN_LENGTH
        && word.bytes().all(of_vin)
        && digits >= VIN_DIGITS_MIN
        && VIN_LENGTH - digits >= VIN_LETTERS_MIN
        && !word.starts_with(SYNTHETIC_VIN)
}

fn private_paths(source: &Source) -> Vec<Finding> {
    let mut findings = Vec::new();
    for (index, line) in source.text.lines().enumerate() {
        for path in PRIVATE_PATHS {
            let begins = |at: usize| {
                !line[..at].ends_with(|before: char| before.is_alphanumeric() || "._-".contains(before))
            };
            if line.match_indices(path).any(|(at, _)| begins(at)) {
                findings.push(Finding::new(
                    &source.path,
                    index + 1,
                    format!("`{path}` is a folder of one machine"),
                ));
            }
        }
    }
    findings
}

#[test]
fn a_vin_is_found_as_a_whole_word() {
    let vin = concat!("1M8GDM9A", "XKP042788");
    let source = made_up("a.md", &format!("one\nthe bus {vin}, and b\"{vin}\"\n"));
    let finding = || Finding::new("a.md", 2, "1M8… has the shape of a VIN");
    assert_eq!(vins(&source), [finding(), finding()]);
    assert_eq!(vins(&made_up("a.md", &format!("{vin}0 _{vin}"))), []);
}

#[test]
fn synthetic_vins_words_and_numbers_are_no_vins() {
    let text = "CNVYTRUCK00000042 ABCDEFGHJKLMNPRST 12345678901234567 1M8GDM9AXKP04278O";
    assert_eq!(vins(&made_up("a.rs", text)), []);
}

#[test]
fn recorded_logs_and_their_goldens_may_hold_what_was_recorded() {
    assert!(may_name_no_vehicle("docs/guide.md"));
    assert!(may_name_no_vehicle("agent/core/tests/decode.rs"));
    assert!(!may_name_no_vehicle("tests/data/truck/SOURCE.md"));
}

#[test]
fn a_private_folder_is_found_and_a_folder_of_that_name_is_not() {
    for path in PRIVATE_PATHS {
        let source = made_up("a.toml", &format!("x = 1\npath = \"{path}data\"\n"));
        let expected = Finding::new("a.toml", 2, format!("`{path}` is a folder of one machine"));
        assert_eq!(private_paths(&source), [expected]);
    }
    let inside = made_up("a.md", concat!("frame", "wo", "rk/ and net", "/wo", "rk/"));
    assert_eq!(private_paths(&inside), []);
}
