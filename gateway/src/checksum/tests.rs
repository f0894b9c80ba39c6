use super::*;

fn digest(algorithm: ChecksumAlgorithm, bytes: &[u8]) -> Vec<u8> {
    let mut hasher = Hasher::new(algorithm);
    hasher.update(bytes);
    hasher.finish()
}

/// The check values of the CRC catalogue, FIPS 180-4 and RFC 3174 style vectors for "123456789".
#[test]
fn check_values() {
    let expect = [
        (ChecksumAlgorithm::Crc32, "cbf43926"),
        (ChecksumAlgorithm::Crc32c, "e3069283"),
        (ChecksumAlgorithm::Crc64Nvme, "ae8b14860a799888"),
        (
            ChecksumAlgorithm::Sha1,
            "f7c3bc1d808e04732adf679965ccc34ca7ae3441",
        ),
        (
            ChecksumAlgorithm::Sha256,
            "15e2b0d3c33891ebb0f1ef609ec419420c20e320ce94c65fbc8c3312448eb225",
        ),
    ];
    for (algorithm, hexed) in expect {
        assert_eq!(hex::encode(digest(algorithm, b"123456789")), hexed);
        assert_eq!(hexed.len(), 2 * value_len(algorithm));
    }
}

#[test]
fn names_are_found_again() {
    for algorithm in ALGORITHMS {
        assert_eq!(by_name(name(algorithm)), Some(algorithm));
        assert_eq!(by_name(&name(algorithm).to_lowercase()), Some(algorithm));
        assert_eq!(by_header(header(algorithm)).unwrap(), Some(algorithm));
    }
    assert_eq!(named("XXHASH3"), Err(Unknown::NotImplemented));
    assert_eq!(named("crc31"), Err(Unknown::Invalid));
    assert_eq!(kind_by_name("composite"), Some(ChecksumKind::Composite));
    assert_eq!(kind_by_name("whole"), None);
}

#[test]
fn values_must_be_base64_of_the_right_length() {
    assert_eq!(
        parse(ChecksumAlgorithm::Crc32, "y/Q5Jg=="),
        Some(vec![0xcb, 0xf4, 0x39, 0x26])
    );
    for bad in [
        "",
        "y/Q5Jg",
        "y/Q5Jg=",
        "y/Q5JgA=",
        "!!!!",
        "y/Q5Jh==",
        " y/Q5Jg==",
    ] {
        assert_eq!(parse(ChecksumAlgorithm::Crc32, bad), None, "{bad:?}");
    }
}

#[test]
fn a_composite_value_shows_its_parts() {
    let mut checksum = ObjectChecksum {
        algorithm: ChecksumAlgorithm::Crc32,
        kind: ChecksumKind::Composite,
        value: vec![0xcb, 0xf4, 0x39, 0x26],
    };
    assert_eq!(format(&checksum, Some(3)), "y/Q5Jg==-3");
    checksum.kind = ChecksumKind::FullObject;
    assert_eq!(format(&checksum, Some(3)), "y/Q5Jg==");
}

#[test]
fn headers() {
    let read = |pairs: &[(&'static str, &str)]| {
        let mut headers = HeaderMap::new();
        for (name, value) in pairs {
            headers.append(*name, value.parse().unwrap());
        }
        from_headers(&headers).map_err(|error| (error.code, error.message.into_owned()))
    };
    let crc = "y/Q5Jg==";
    assert_eq!(read(&[("x-amz-checksum-mode", "ENABLED")]), Ok(None));
    assert_eq!(
        read(&[
            ("x-amz-checksum-crc32", crc),
            ("x-amz-checksum-type", "FULL_OBJECT")
        ]),
        Ok(Some((
            ChecksumAlgorithm::Crc32,
            vec![0xcb, 0xf4, 0x39, 0x26]
        )))
    );
    let code = |pairs: &[(&'static str, &str)]| read(pairs).unwrap_err().0;
    assert_eq!(
        code(&[
            ("x-amz-checksum-crc32", crc),
            ("x-amz-checksum-crc32c", crc)
        ]),
        Code::InvalidRequest
    );
    assert_eq!(
        code(&[("x-amz-checksum-crc32", crc), ("x-amz-checksum-crc32", crc)]),
        Code::InvalidRequest
    );
    assert_eq!(
        read(&[("x-amz-checksum-sha1", crc)]).unwrap_err(),
        (
            Code::BadDigest,
            "Value for x-amz-checksum-sha1 header is invalid.".into()
        )
    );
    assert_eq!(
        code(&[("x-amz-checksum-sha512", crc)]),
        Code::NotImplemented
    );
    assert_eq!(code(&[("x-amz-checksum-crc16", crc)]), Code::InvalidRequest);
}

proptest::proptest! {
    /// Combining the parts' CRCs gives the CRC of the whole.
    #[test]
    fn combined_is_whole(parts in proptest::collection::vec(
        proptest::collection::vec(proptest::prelude::any::<u8>(), 0..300), 0..6,
    )) {
        for algorithm in ALGORITHMS {
            let values: Vec<_> = parts.iter().map(|part| (digest(algorithm, part), part.len() as u64)).collect();
            let combined = combine_full_object(algorithm, values.iter().map(|(value, len)| (value.as_slice(), *len)));
            let whole = digest(algorithm, &parts.concat());
            match algorithm {
                ChecksumAlgorithm::Sha1 | ChecksumAlgorithm::Sha256 => proptest::prop_assert_eq!(combined, None),
                _ => proptest::prop_assert_eq!(combined, Some(whole)),
            }
        }
    }
}

/// Long parts, the same as by the CRC library's own (and slower) way.
#[test]
fn combined_as_the_library_does() {
    for algorithm in ALGORITHMS {
        let Some(crc) = crc(algorithm) else { continue };
        let len = value_len(algorithm);
        let mut expect = 0;
        let mut parts = Vec::new();
        for (index, part_len) in [5_u64 << 20, 5 << 30, 0, 1, (5 << 30) - 1]
            .into_iter()
            .enumerate()
        {
            let value = digest(algorithm, &[index as u8]);
            let mut word = [0; 8];
            word[8 - len..].copy_from_slice(&value);
            expect = crc_fast::checksum_combine(crc, expect, u64::from_be_bytes(word), part_len);
            parts.push((value, part_len));
        }
        let combined = combine_full_object(
            algorithm,
            parts.iter().map(|(value, len)| (value.as_slice(), *len)),
        );
        assert_eq!(combined, Some(crc_value(expect, len)), "{algorithm:?}");
    }
}

/// Lengths beyond 32 bits: two halves of zeros, combined, and combined the other way around.
#[test]
fn combining_is_associative_over_large_lengths() {
    let lens = [5_u64 << 30, (5 << 30) + 7, 123_456_789_012];
    for algorithm in [
        ChecksumAlgorithm::Crc32,
        ChecksumAlgorithm::Crc32c,
        ChecksumAlgorithm::Crc64Nvme,
    ] {
        let [a, b, c] = [b"a", b"b", b"c"].map(|byte| digest(algorithm, byte));
        let left =
            combine_full_object(algorithm, [(a.as_slice(), lens[0]), (&b, lens[1])]).unwrap();
        let left = combine_full_object(
            algorithm,
            [(left.as_slice(), lens[0] + lens[1]), (&c, lens[2])],
        );
        let right =
            combine_full_object(algorithm, [(b.as_slice(), lens[1]), (&c, lens[2])]).unwrap();
        let right = combine_full_object(
            algorithm,
            [(a.as_slice(), lens[0]), (&right, lens[1] + lens[2])],
        );
        assert_eq!(left, right);
    }
}

#[test]
fn a_combined_value_of_the_wrong_length_is_refused() {
    assert_eq!(
        combine_full_object(ChecksumAlgorithm::Crc32, [([0_u8; 5].as_slice(), 1)]),
        None
    );
    assert_eq!(
        combine_full_object(ChecksumAlgorithm::Crc64Nvme, [([0_u8; 4].as_slice(), 1)]),
        None
    );
}
