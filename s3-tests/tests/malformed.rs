//! Requests that are wrong in one way each, the S3 error that they must get, and a good request afterwards: on the
//! same connection where HTTP allows it, else on a new one.
//!
//! Codes and statuses are those of the S3 API reference ("Error responses", the pages of the operations, and
//! "Authenticating requests: AWS Signature Version 4"). Where the reference leaves room, all allowed codes are named.

use std::time::Duration;

use holdfast_s3_tests::chunked::{self, ChunkedBody, Form, content_md5, crc32, crc32c, join};
use holdfast_s3_tests::request::Declared;
use holdfast_s3_tests::{Client, Connection, Keys, Request, Scratch, Server, ServerOptions, Wire};

const BUCKET: &str = "malformed";
const OBJECT: &[u8] = &[b'o'; 1000];

/// What the cases refer to.
struct Ground {
    address: std::net::SocketAddr,
    keys: Keys,
    /// An upload to the key `upload` with part 1 (5 bytes) and part 2 (5 bytes).
    upload: String,
    part_etags: [String; 2],
}

impl Ground {
    fn prepare(client: &mut Client) -> Self {
        client.create_bucket(BUCKET);
        client.ok(&Request::put("/malformed/object").body(OBJECT));
        let created = client.ok(&Request::post("/malformed/upload?uploads"));
        let upload = created.element("UploadId").expect("upload id");
        let part = |client: &mut Client, number: u32| {
            let target = format!("/malformed/upload?partNumber={number}&uploadId={upload}");
            client
                .ok(&Request::put(&target).body("part."))
                .get("etag")
                .expect("etag")
                .to_owned()
        };
        let part_etags = [part(client, 1), part(client, 2)];
        Self {
            address: client.address(),
            keys: client.keys().clone(),
            upload,
            part_etags,
        }
    }

    fn sign(&self, request: Request) -> Wire {
        request.sign(self.address, &self.keys)
    }

    fn presign(&self, request: Request) -> Wire {
        request.presign(self.address, &self.keys, Duration::from_secs(600))
    }

    fn put(&self) -> Request {
        Request::put("/malformed/new").body("hello")
    }

    fn chunked(&self, form: Form, trailer: Option<(&str, &str)>) -> (Wire, ChunkedBody) {
        chunked::put(
            "/malformed/new",
            form,
            &CHUNKED_DATA,
            8192,
            trailer,
            self.address,
            &self.keys,
        )
    }

    fn complete(&self, xml: &str) -> Wire {
        self.sign(Request::post(&format!("/malformed/upload?uploadId={}", self.upload)).body(xml))
    }

    fn delete_objects(&self, xml: &str) -> Wire {
        self.sign(
            Request::post("/malformed?delete")
                .header("content-md5", &content_md5(xml.as_bytes()))
                .body(xml),
        )
    }
}

static CHUNKED_DATA: [u8; 20_000] = [b'c'; 20_000];

/// What the connection is good for after the answer.
#[derive(Clone, Copy, PartialEq, Debug)]
enum After {
    /// The request was framed rightly and sent whole: the next one goes over the same connection.
    Same,
    /// Where the request ends is not known to both sides: the server may close, and a new connection works.
    New,
    /// As `New`, and nothing more is sent after the request.
    HalfClosed,
}

struct Case {
    name: &'static str,
    make: Box<dyn Fn(&Ground) -> Wire>,
    status: u16,
    /// One of these; empty where the request is so broken that it is not S3 any more.
    codes: &'static [&'static str],
    after: After,
}

fn case(
    name: &'static str,
    status: u16,
    codes: &'static [&'static str],
    make: impl Fn(&Ground) -> Wire + 'static,
) -> Case {
    Case {
        name,
        make: Box::new(make),
        status,
        codes,
        after: After::Same,
    }
}

impl Case {
    fn then(mut self, after: After) -> Self {
        self.after = after;
        self
    }
}

fn authentication() -> Vec<Case> {
    let edit = |from: &'static str, to: &'static str| {
        move |g: &Ground| {
            g.sign(g.put())
                .edit("authorization", |value| value.replace(from, to))
        }
    };
    vec![
        case("no authentication", 403, &["AccessDenied"], |g| {
            g.sign(g.put())
                .without("authorization")
                .without("x-amz-date")
        }),
        case("unknown access key", 403, &["InvalidAccessKeyId"], |g| {
            g.put().sign(
                g.address,
                &Keys {
                    access: "NOSUCHKEY".into(),
                    secret: g.keys.secret.clone(),
                },
            )
        }),
        case("wrong secret", 403, &["SignatureDoesNotMatch"], |g| {
            g.put().sign(
                g.address,
                &Keys {
                    access: g.keys.access.clone(),
                    secret: "wrong".into(),
                },
            )
        }),
        case(
            "one hex digit of the signature changed",
            403,
            &["SignatureDoesNotMatch"],
            |g| {
                g.sign(g.put()).edit("authorization", |value| {
                    let flipped = if value.ends_with('0') { "1" } else { "0" };
                    format!("{}{flipped}", &value[..value.len() - 1])
                })
            },
        ),
        case(
            "signature cut short",
            403,
            &["SignatureDoesNotMatch"],
            |g| {
                g.sign(g.put())
                    .edit("authorization", |value| value[..value.len() - 2].to_owned())
            },
        ),
        case(
            "empty signature",
            400,
            &["AuthorizationHeaderMalformed"],
            |g| {
                g.sign(g.put()).edit("authorization", |value| {
                    value[..value.len() - 64].to_owned()
                })
            },
        ),
        case(
            "another key than the signed one",
            403,
            &["SignatureDoesNotMatch"],
            |g| g.sign(g.put()).line(|line| line.replace("/new", "/other")),
        ),
        case(
            "a query that was not signed",
            403,
            &["SignatureDoesNotMatch"],
            |g| {
                g.sign(Request::get("/malformed/object"))
                    .line(|line| line.replace("/object", "/object?tagging"))
            },
        ),
        case(
            "another method than the signed one",
            403,
            &["SignatureDoesNotMatch"],
            |g| {
                g.sign(Request::get("/malformed/object"))
                    .line(|line| line.replace("GET", "DELETE"))
            },
        ),
        case(
            "a signed header changed",
            403,
            &["SignatureDoesNotMatch"],
            |g| {
                g.sign(g.put().header("x-amz-meta-a", "b"))
                    .set("x-amz-meta-a", "c")
            },
        ),
        case(
            "a signed header left out",
            403,
            &["SignatureDoesNotMatch", "AccessDenied"],
            |g| {
                g.sign(g.put().header("x-amz-meta-a", "b"))
                    .without("x-amz-meta-a")
            },
        ),
        case(
            "an x-amz header that is not signed",
            403,
            &["AccessDenied"],
            |g| g.sign(g.put()).add("x-amz-meta-late", "x"),
        ),
        case(
            "host not signed",
            403,
            &["AccessDenied", "SignatureDoesNotMatch"],
            |g| {
                g.sign(g.put()).edit("authorization", |value| {
                    value.replace("SignedHeaders=host;", "SignedHeaders=")
                })
            },
        ),
        case(
            "another authorization scheme",
            400,
            &["InvalidArgument", "InvalidRequest"],
            |g| g.sign(g.put()).set("authorization", "Bearer abc"),
        ),
        case(
            "wrong signature of version 2",
            403,
            &["SignatureDoesNotMatch"],
            |g| {
                g.sign(g.put())
                    .set("authorization", "AWS HOLDFASTTESTKEY00001:c2lnbmF0dXJl")
            },
        ),
        case(
            "unknown algorithm",
            400,
            &[
                "InvalidRequest",
                "InvalidArgument",
                "AuthorizationHeaderMalformed",
            ],
            edit("AWS4-HMAC-SHA256", "AWS4-HMAC-SHA512"),
        ),
        case(
            "no credential",
            400,
            &["AuthorizationHeaderMalformed"],
            edit("Credential=", "Xredential="),
        ),
        case(
            "no signed headers",
            400,
            &["AuthorizationHeaderMalformed"],
            edit("SignedHeaders=", "XignedHeaders="),
        ),
        case(
            "no signature",
            400,
            &["AuthorizationHeaderMalformed"],
            edit("Signature=", "Xignature="),
        ),
        case(
            "credential without a scope",
            400,
            &["AuthorizationHeaderMalformed"],
            |g| {
                g.sign(g.put()).set("authorization", "AWS4-HMAC-SHA256 Credential=HOLDFASTTESTKEY00001, SignedHeaders=host, Signature=00")
            },
        ),
        case(
            "only the scheme",
            400,
            &["AuthorizationHeaderMalformed"],
            |g| g.sign(g.put()).set("authorization", "AWS4-HMAC-SHA256"),
        ),
        case(
            "scope of another service",
            400,
            &["AuthorizationHeaderMalformed"],
            |g| g.sign(g.put().service("ec2")),
        ),
        case(
            "scope that ends otherwise",
            400,
            &["AuthorizationHeaderMalformed"],
            edit("/aws4_request", "/aws5_request"),
        ),
        case(
            "scope of another region",
            400,
            &["AuthorizationHeaderMalformed"],
            |g| g.sign(g.put().region("mars-north-1")),
        ),
        case(
            "scope of another day",
            400,
            &["AuthorizationHeaderMalformed"],
            |g| {
                let wire = g.sign(g.put());
                let day = chunked::amz_date(wire.time)[..8].to_owned();
                wire.edit("authorization", |value| {
                    value.replace(&format!("/{day}/"), "/20200101/")
                })
            },
        ),
        case("no date", 403, &["AccessDenied"], |g| {
            g.sign(g.put()).without("x-amz-date")
        }),
        case("a date that is none", 403, &["AccessDenied"], |g| {
            g.sign(g.put()).set("x-amz-date", "yesterday")
        }),
        case("a date with a 13th month", 403, &["AccessDenied"], |g| {
            g.sign(g.put()).set("x-amz-date", "20261340T000000Z")
        }),
        case("twenty minutes late", 403, &["RequestTimeTooSkewed"], |g| {
            g.sign(g.put().at(-20 * 60))
        }),
        case(
            "twenty minutes early",
            403,
            &["RequestTimeTooSkewed"],
            |g| g.sign(g.put().at(20 * 60)),
        ),
        case(
            "no x-amz-content-sha256",
            400,
            &["InvalidRequest", "MissingSecurityHeader"],
            |g| g.sign(g.put()).without("x-amz-content-sha256"),
        ),
        case(
            "x-amz-content-sha256 that is none",
            400,
            &["InvalidArgument", "InvalidRequest"],
            |g| g.sign(g.put().declared(Declared::Text("abc".into()))),
        ),
        case(
            "unknown streaming payload",
            400,
            &["InvalidArgument", "InvalidRequest", "NotImplemented"],
            |g| {
                g.sign(
                    g.put()
                        .declared(Declared::Text("STREAMING-AWS4-HMAC-SHA512-PAYLOAD".into())),
                )
            },
        ),
        case(
            "another body than the signed one",
            400,
            &["XAmzContentSHA256Mismatch"],
            |g| g.sign(g.put()).with_body("jello"),
        ),
        case(
            "authorization and signature in the query",
            400,
            &["InvalidArgument", "InvalidRequest"],
            |g| {
                let header = g.sign(Request::get("/malformed/object"));
                g.presign(Request::get("/malformed/object")).add(
                    "authorization",
                    header.get("authorization").expect("signed"),
                )
            },
        ),
    ]
}

fn presigned() -> Vec<Case> {
    const WRONG: &[&str] = &["AuthorizationQueryParametersError"];
    let get = || Request::get("/malformed/object");
    let edit = move |from: &'static str, to: &'static str| {
        move |g: &Ground| g.presign(get()).line(|line| line.replace(from, to))
    };
    vec![
        case("presigned, expired", 403, &["AccessDenied"], move |g| {
            get()
                .at(-700)
                .presign(g.address, &g.keys, Duration::from_secs(600))
        }),
        case(
            "presigned, not yet valid",
            403,
            &["AccessDenied", "RequestTimeTooSkewed"],
            move |g| g.presign(get().at(20 * 60)),
        ),
        case(
            "presigned for more than a week",
            403,
            &["AccessDenied"],
            move |g| get().presign(g.address, &g.keys, Duration::from_secs(604_801)),
        ),
        case(
            "presigned for a negative time",
            403,
            &["AccessDenied"],
            edit("X-Amz-Expires=600", "X-Amz-Expires=-1"),
        ),
        case(
            "presigned for no number of seconds",
            400,
            WRONG,
            edit("X-Amz-Expires=600", "X-Amz-Expires=soon"),
        ),
        case(
            "presigned without expiry",
            400,
            WRONG,
            edit("X-Amz-Expires=600&", ""),
        ),
        case("presigned without a signature", 400, WRONG, |g| {
            let wire = g.presign(Request::get("/malformed/object"));
            let signature = format!("&X-Amz-Signature={}", wire.signature);
            wire.line(|line| line.replace(&signature, ""))
        }),
        case(
            "presigned without signed headers",
            400,
            WRONG,
            edit("X-Amz-SignedHeaders=host&", ""),
        ),
        case(
            "presigned without a date",
            400,
            WRONG,
            edit("X-Amz-Date=", "Y-Amz-Date="),
        ),
        case(
            "presigned by an unknown algorithm",
            400,
            WRONG,
            edit("AWS4-HMAC-SHA256", "AWS4-HMAC-MD5"),
        ),
        case(
            "presigned with a broken credential",
            400,
            WRONG,
            edit("%2Fs3%2F", "%2F"),
        ),
        case(
            "presigned by an unknown key",
            403,
            &["InvalidAccessKeyId"],
            edit("HOLDFASTTESTKEY00001", "NOSUCHKEY"),
        ),
        case(
            "presigned for another object",
            403,
            &["SignatureDoesNotMatch"],
            edit("/object", "/other"),
        ),
        case(
            "presigned for another method",
            403,
            &["SignatureDoesNotMatch"],
            edit("GET", "DELETE"),
        ),
        case(
            "presigned, expiry stretched",
            403,
            &["SignatureDoesNotMatch"],
            edit("X-Amz-Expires=600", "X-Amz-Expires=6000"),
        ),
        case(
            "presigned, a parameter added",
            403,
            &["SignatureDoesNotMatch"],
            edit("?X-Amz", "?response-content-type=text%2Fhtml&X-Amz"),
        ),
    ]
}

fn chunk_framing() -> Vec<Case> {
    const BROKEN: &[&str] = &["IncompleteBody", "InvalidRequest"];
    let signed = |change: fn(&mut ChunkedBody)| {
        move |g: &Ground| {
            let (wire, mut body) = g.chunked(Form::Signed, None);
            change(&mut body);
            join(wire, &body)
        }
    };
    let unsigned = |change: fn(&mut ChunkedBody)| {
        move |g: &Ground| {
            let crc = crc32c(&CHUNKED_DATA);
            let (wire, mut body) =
                g.chunked(Form::UnsignedTrailer, Some(("x-amz-checksum-crc32c", &crc)));
            change(&mut body);
            join(wire, &body)
        }
    };
    vec![
        case(
            "chunk signature changed",
            403,
            &["SignatureDoesNotMatch"],
            signed(|body| {
                let line = &mut body.chunks[1].line;
                let last = if line.ends_with('0') { "1" } else { "0" };
                line.pop();
                line.push_str(last);
            }),
        ),
        case(
            "chunk data changed",
            403,
            &["SignatureDoesNotMatch"],
            signed(|body| body.chunks[1].data[17] ^= 1),
        ),
        case(
            "two chunks swapped",
            403,
            &["SignatureDoesNotMatch"],
            signed(|body| {
                body.chunks[0].data[0] = b'x';
                body.chunks.swap(0, 1);
            }),
        ),
        case(
            "signature of the last chunk wrong",
            403,
            &["SignatureDoesNotMatch"],
            signed(|body| {
                body.chunks[3].line = format!("0;chunk-signature={}", "0".repeat(64));
            }),
        ),
        case(
            "chunk without a signature",
            400,
            &["IncompleteBody"],
            signed(|body| {
                body.chunks[0].line = "2000".to_owned();
            }),
        ),
        case(
            "chunk size that is no number",
            400,
            BROKEN,
            unsigned(|body| body.chunks[1].line = "zz".to_owned()),
        ),
        case(
            "empty chunk size",
            400,
            BROKEN,
            unsigned(|body| body.chunks[1].line = String::new()),
        ),
        case(
            "negative chunk size",
            400,
            BROKEN,
            unsigned(|body| body.chunks[1].line = "-1".to_owned()),
        ),
        case(
            "chunk size beyond 64 bits",
            400,
            BROKEN,
            unsigned(|body| body.chunks[1].line = "fffffffffffffffff".to_owned()),
        ),
        case(
            "chunk size of 2^63",
            400,
            BROKEN,
            unsigned(|body| body.chunks[1].line = "8000000000000000".to_owned()),
        ),
        case(
            "chunk line without end",
            400,
            BROKEN,
            unsigned(|body| body.chunks[1].line = "2".repeat(100_000)),
        ),
        case(
            "no CRLF after a chunk",
            400,
            BROKEN,
            unsigned(|body| body.chunks[1].end = String::new()),
        ),
        case(
            "something else than CRLF after a chunk",
            400,
            BROKEN,
            unsigned(|body| body.chunks[1].end = "xx".to_owned()),
        ),
        case(
            "no last chunk",
            400,
            &["IncompleteBody", "InvalidRequest", "MalformedTrailerError"],
            unsigned(|body| {
                body.chunks.pop();
                body.trailers.clear();
            }),
        ),
        case(
            "chunk longer than the body",
            400,
            BROKEN,
            unsigned(|body| body.chunks[2].line = "ffff".to_owned()),
        ),
        case("no decoded length", 411, &["MissingContentLength"], |g| {
            let request = Request::put("/malformed/new")
                .header("content-encoding", "aws-chunked")
                .declared(Declared::Text(Form::Signed.declared().into()))
                .body("0\r\n\r\n");
            g.sign(request)
        }),
        case(
            "decoded length that is no number",
            400,
            &["InvalidArgument", "InvalidRequest", "MissingContentLength"],
            |g| {
                let request = Request::put("/malformed/new")
                    .header("x-amz-decoded-content-length", "many")
                    .declared(Declared::Text(Form::UnsignedTrailer.declared().into()))
                    .body("0\r\n\r\n");
                g.sign(request)
            },
        ),
        case("decoded length too large", 400, &["IncompleteBody"], |g| {
            decoded_length(g, "20001")
        }),
        case("decoded length too small", 400, BROKEN, |g| {
            decoded_length(g, "19999")
        }),
        case("trailing checksum wrong", 400, &["BadDigest"], |g| {
            let crc = crc32c(b"something else");
            let (wire, body) =
                g.chunked(Form::UnsignedTrailer, Some(("x-amz-checksum-crc32c", &crc)));
            join(wire, &body)
        }),
        case(
            "trailing checksum of the wrong length",
            400,
            &["InvalidRequest", "BadDigest", "MalformedTrailerError"],
            |g| {
                let (wire, body) = g.chunked(
                    Form::UnsignedTrailer,
                    Some(("x-amz-checksum-crc32c", "AAAA")),
                );
                join(wire, &body)
            },
        ),
        case(
            "announced trailer missing",
            400,
            &["MalformedTrailerError"],
            unsigned(|body| body.trailers.clear()),
        ),
        case(
            "trailer that was not announced",
            400,
            &["MalformedTrailerError"],
            unsigned(|body| {
                body.trailers = vec!["x-amz-checksum-crc32:AAAAAA==".to_owned()];
            }),
        ),
        case(
            "trailer without a colon",
            400,
            &["MalformedTrailerError"],
            unsigned(|body| {
                body.trailers = vec!["x-amz-checksum-crc32c".to_owned()];
            }),
        ),
        case(
            "trailer of an unknown algorithm",
            400,
            &["InvalidRequest"],
            |g| {
                let (wire, body) =
                    g.chunked(Form::UnsignedTrailer, Some(("x-amz-checksum-md4", "AAAA")));
                join(wire, &body)
            },
        ),
        case(
            "trailer signature wrong",
            403,
            &["SignatureDoesNotMatch"],
            |g| {
                let crc = crc32c(&CHUNKED_DATA);
                let (wire, mut body) =
                    g.chunked(Form::SignedTrailer, Some(("x-amz-checksum-crc32c", &crc)));
                body.trailers[1] = format!("x-amz-trailer-signature:{}", "0".repeat(64));
                join(wire, &body)
            },
        ),
        case(
            "trailer signature missing",
            400,
            &["MalformedTrailerError"],
            |g| {
                let crc = crc32c(&CHUNKED_DATA);
                let (wire, mut body) =
                    g.chunked(Form::SignedTrailer, Some(("x-amz-checksum-crc32c", &crc)));
                body.trailers.pop();
                join(wire, &body)
            },
        )
        .then(After::Same),
        case(
            "signed chunks, right, but cut off by content-length",
            400,
            &["IncompleteBody"],
            |g| {
                let (wire, body) = g.chunked(Form::Signed, None);
                let bytes = body.bytes();
                let cut = bytes.len() - 5000;
                wire.set("content-length", &cut.to_string())
                    .with_body(&bytes[..cut])
            },
        ),
    ]
}

fn decoded_length(g: &Ground, claimed: &str) -> Wire {
    let crc = crc32c(&CHUNKED_DATA);
    let (_, body) = g.chunked(Form::UnsignedTrailer, Some(("x-amz-checksum-crc32c", &crc)));
    let request = Request::put("/malformed/new")
        .header("content-encoding", "aws-chunked")
        .header("x-amz-decoded-content-length", claimed)
        .header("x-amz-trailer", "x-amz-checksum-crc32c")
        .declared(Declared::Text(Form::UnsignedTrailer.declared().into()));
    join(g.sign(request), &body)
}

fn transport() -> Vec<Case> {
    vec![
        case("not HTTP", 400, &[], |g| {
            g.sign(g.put()).line(|_| "\u{1}\u{2}garbage".to_owned())
        })
        .then(After::New),
        case("no version", 400, &[], |g| {
            g.sign(g.put()).line(|line| line.replace(" HTTP/1.1", ""))
        })
        .then(After::New),
        case("header without a colon", 400, &[], |g| {
            let mut wire = g.sign(g.put());
            wire.line.push_str("\r\nthis is no header");
            wire
        })
        .then(After::New),
        case("content-length that is no number", 400, &[], |g| {
            g.sign(g.put()).set("content-length", "five")
        })
        .then(After::New),
        case("negative content-length", 400, &[], |g| {
            g.sign(g.put()).set("content-length", "-5")
        })
        .then(After::New),
        case("two content-lengths", 400, &[], |g| {
            g.sign(g.put()).add("content-length", "6")
        })
        .then(After::New),
        case("more headers than are taken", 431, &[], |g| {
            (0..2000).fold(g.sign(g.put()), |wire, index| {
                wire.add(&format!("x-filler-{index}"), "x")
            })
        })
        .then(After::New),
        case(
            "headers of 20 KiB",
            400,
            &["RequestHeaderSectionTooLarge"],
            |g| g.sign(g.put()).add("x-filler", &"x".repeat(20 << 10)),
        ),
        case("a header of a mebibyte", 431, &[], |g| {
            g.sign(g.put()).add("x-filler", &"x".repeat(1 << 20))
        })
        .then(After::New),
        case(
            "PUT without content-length",
            411,
            &["MissingContentLength"],
            |g| {
                g.sign(g.put().unsigned())
                    .without("content-length")
                    .with_body("")
            },
        ),
        case(
            "body shorter than content-length",
            400,
            &["IncompleteBody"],
            |g| g.sign(g.put().unsigned()).set("content-length", "1000"),
        )
        .then(After::HalfClosed),
        case(
            "large body shorter than content-length",
            400,
            &["IncompleteBody"],
            |g| {
                let body = vec![b'x'; 6_000_000];
                g.sign(Request::put("/malformed/new").unsigned().body(body))
                    .set("content-length", "20000000")
            },
        )
        .then(After::HalfClosed),
        case("object above 5 GiB", 400, &["EntityTooLarge"], |g| {
            g.sign(g.put().unsigned())
                .set("content-length", "5368709121")
        })
        .then(After::New),
        case(
            "path that is no percent-encoding",
            400,
            &["InvalidURI"],
            |g| {
                g.sign(Request::get("/malformed/object"))
                    .line(|line| line.replace("/object", "/%zz"))
            },
        ),
        case(
            "path cut within a percent-encoding",
            400,
            &["InvalidURI"],
            |g| {
                g.sign(Request::get("/malformed/object"))
                    .line(|line| line.replace("/object", "/%4"))
            },
        ),
        case("key that is not UTF-8", 400, &["InvalidURI"], |g| {
            g.sign(Request::get("/malformed/%ff%fe"))
        }),
    ]
}

fn digests() -> Vec<Case> {
    let put = |name: &'static str, value: &'static str| {
        move |g: &Ground| g.sign(g.put().header(name, value))
    };
    vec![
        case(
            "Content-MD5 that is no base64",
            400,
            &["InvalidDigest"],
            put("content-md5", "!!!"),
        ),
        case(
            "Content-MD5 of the wrong length",
            400,
            &["InvalidDigest"],
            put("content-md5", "aGVsbG8="),
        ),
        case(
            "Content-MD5 of something else",
            400,
            &["BadDigest"],
            put("content-md5", "1B2M2Y8AsgTpgAmY7PhCfg=="),
        ),
        case(
            "CRC32 of something else",
            400,
            &["BadDigest"],
            put("x-amz-checksum-crc32", "AAAAAA=="),
        ),
        case(
            "CRC32C of something else",
            400,
            &["BadDigest"],
            put("x-amz-checksum-crc32c", "AAAAAA=="),
        ),
        case(
            "CRC64NVME of something else",
            400,
            &["BadDigest"],
            put("x-amz-checksum-crc64nvme", "AAAAAAAAAAA="),
        ),
        case(
            "SHA1 of something else",
            400,
            &["BadDigest"],
            put("x-amz-checksum-sha1", "2jmj7l5rSw0yVb/vlWAYkK/YBwk="),
        ),
        case(
            "SHA256 of something else",
            400,
            &["BadDigest"],
            put(
                "x-amz-checksum-sha256",
                "47DEQpj8HBSa+/TImW+5JCeuQeRkm5NMpJWZG3hSuFU=",
            ),
        ),
        case(
            "CRC32 of the wrong length",
            400,
            &["BadDigest"],
            put("x-amz-checksum-crc32", "AAAA"),
        ),
        case(
            "CRC32 that is no base64",
            400,
            &["BadDigest"],
            put("x-amz-checksum-crc32", "?"),
        ),
        case(
            "unknown checksum header",
            400,
            &["InvalidRequest", "NotImplemented"],
            put("x-amz-checksum-md4", "AAAA"),
        ),
        case("two checksums", 400, &["InvalidRequest"], |g| {
            g.sign(
                g.put()
                    .header("x-amz-checksum-crc32", &crc32(b"hello"))
                    .header("x-amz-checksum-crc32c", &crc32c(b"hello")),
            )
        }),
        case(
            "unknown checksum algorithm",
            400,
            &["InvalidRequest", "InvalidArgument"],
            put("x-amz-sdk-checksum-algorithm", "MD4"),
        ),
        case(
            "algorithm named, checksum of another",
            400,
            &["InvalidRequest"],
            |g| {
                g.sign(
                    g.put()
                        .header("x-amz-sdk-checksum-algorithm", "SHA256")
                        .header("x-amz-checksum-crc32", &crc32(b"hello")),
                )
            },
        ),
    ]
}

fn names() -> Vec<Case> {
    let bucket = |target: &'static str| move |g: &Ground| g.sign(Request::put(target));
    const NAME: &[&str] = &["InvalidBucketName"];
    vec![
        case("bucket name of two letters", 400, NAME, bucket("/ab")),
        case("bucket name of 64 letters", 400, NAME, |g| {
            g.sign(Request::put(&format!("/{}", "b".repeat(64))))
        }),
        case("bucket name in upper case", 400, NAME, bucket("/Bucket")),
        case(
            "bucket name with an underscore",
            400,
            NAME,
            bucket("/my_bucket"),
        ),
        case(
            "bucket name like an address",
            400,
            NAME,
            bucket("/192.168.5.4"),
        ),
        case(
            "bucket name that starts with a hyphen",
            400,
            NAME,
            bucket("/-bucket"),
        ),
        case(
            "bucket name that ends with a dot",
            400,
            NAME,
            bucket("/bucket."),
        ),
        case(
            "bucket name with two dots",
            400,
            NAME,
            bucket("/my..bucket"),
        ),
        case(
            "bucket name with a space",
            400,
            NAME,
            bucket("/my%20bucket"),
        ),
        case(
            "bucket name that is reserved",
            400,
            NAME,
            bucket("/xn--bucket"),
        ),
        case("key of 1025 bytes", 400, &["KeyTooLongError"], |g| {
            g.sign(Request::put(&format!("/malformed/{}", "k".repeat(1025))).body("x"))
        }),
        case(
            "key of 1025 bytes in fewer letters",
            400,
            &["KeyTooLongError"],
            |g| g.sign(Request::put(&format!("/malformed/x{}", "%C3%A4".repeat(512))).body("x")),
        ),
        case("no such bucket, PUT", 404, &["NoSuchBucket"], |g| {
            g.sign(Request::put("/nosuchbucket/key").body("x"))
        }),
        case("no such bucket, GET", 404, &["NoSuchBucket"], |g| {
            g.sign(Request::get("/nosuchbucket/key"))
        }),
        case("no such bucket, list", 404, &["NoSuchBucket"], |g| {
            g.sign(Request::get("/nosuchbucket?list-type=2"))
        }),
        case("no such key", 404, &["NoSuchKey"], |g| {
            g.sign(Request::get("/malformed/nosuchkey"))
        }),
    ]
}

fn xml() -> Vec<Case> {
    const XML: &[&str] = &["MalformedXML"];
    vec![
        case("DeleteObjects, XML cut off", 400, XML, |g| {
            g.delete_objects("<Delete><Object><Key>a</Key>")
        }),
        case("DeleteObjects, tags crossed", 400, XML, |g| {
            g.delete_objects("<Delete><Object><Key>a</Object></Key></Delete>")
        }),
        case("DeleteObjects, another root", 400, XML, |g| {
            g.delete_objects("<Remove><Object><Key>a</Key></Object></Remove>")
        }),
        case("DeleteObjects, not XML", 400, XML, |g| {
            g.delete_objects("{\"Objects\": []}")
        }),
        case("DeleteObjects, not UTF-8", 400, XML, |g| {
            let xml = b"<Delete><Object><Key>\xff\xfe</Key></Object></Delete>";
            g.sign(
                Request::post("/malformed?delete")
                    .header("content-md5", &content_md5(xml))
                    .body(&xml[..]),
            )
        }),
        case("DeleteObjects of nothing", 400, XML, |g| {
            g.delete_objects("<Delete></Delete>")
        }),
        case("DeleteObjects without a key", 400, XML, |g| {
            g.delete_objects("<Delete><Object></Object></Delete>")
        }),
        case("DeleteObjects of 1001 keys", 400, XML, |g| {
            g.delete_objects(&format!(
                "<Delete>{}</Delete>",
                "<Object><Key>a</Key></Object>".repeat(1001)
            ))
        }),
        case("DeleteObjects, entities that multiply", 400, XML, |g| {
            g.delete_objects(concat!(
                "<?xml version=\"1.0\"?><!DOCTYPE d [<!ENTITY a \"aaaaaaaaaa\"><!ENTITY b \"&a;&a;&a;&a;&a;&a;\">]>",
                "<Delete><Object><Key>&b;</Key></Object></Delete>"
            ))
        }),
        case("DeleteObjects, an unknown entity", 400, XML, |g| {
            g.delete_objects("<Delete><Object><Key>&nbsp;</Key></Object></Delete>")
        }),
        case(
            "DeleteObjects, empty body",
            400,
            &["MissingRequestBodyError", "MalformedXML"],
            |g| g.delete_objects(""),
        ),
        case(
            "DeleteObjects without a digest",
            400,
            &["InvalidRequest", "MissingSecurityHeader"],
            |g| {
                g.sign(
                    Request::post("/malformed?delete")
                        .body("<Delete><Object><Key>a</Key></Object></Delete>"),
                )
            },
        ),
        case("DeleteObjects, wrong digest", 400, &["BadDigest"], |g| {
            let wrong = content_md5(b"another");
            let xml = "<Delete><Object><Key>a</Key></Object></Delete>";
            g.sign(
                Request::post("/malformed?delete")
                    .header("content-md5", &wrong)
                    .body(xml),
            )
        }),
        case(
            "XML above any limit",
            400,
            &["MaxMessageLengthExceeded", "MalformedXML", "EntityTooLarge"],
            |g| {
                let mut xml = "<Delete>".to_owned();
                xml.push_str(&" ".repeat(8 << 20));
                xml.push_str("<Object><Key>a</Key></Object></Delete>");
                g.delete_objects(&xml)
            },
        )
        .then(After::New),
        case("CreateBucket, broken XML", 400, XML, |g| {
            g.sign(Request::put("/fresh-bucket").body("<CreateBucketConfiguration><Loc"))
        }),
        case(
            "CreateBucket elsewhere",
            400,
            &[
                "InvalidLocationConstraint",
                "IllegalLocationConstraintException",
            ],
            |g| {
                g.sign(Request::put("/fresh-bucket").body(
                "<CreateBucketConfiguration><LocationConstraint>mars-north-1</LocationConstraint></CreateBucketConfiguration>",
            ))
            },
        ),
        case("Complete, broken XML", 400, XML, |g| {
            g.complete("<CompleteMultipartUpload><Part>")
        }),
        case("Complete without parts", 400, XML, |g| {
            g.complete("<CompleteMultipartUpload></CompleteMultipartUpload>")
        }),
        case("Complete, part number that is none", 400, XML, |g| {
            g.complete("<CompleteMultipartUpload><Part><PartNumber>one</PartNumber><ETag>a</ETag></Part></CompleteMultipartUpload>")
        }),
        case(
            "Complete, parts in the wrong order",
            400,
            &["InvalidPartOrder"],
            |g| {
                let [one, two] = &g.part_etags;
                g.complete(&parts(&[(2, two), (1, one)]))
            },
        ),
        case(
            "Complete, a part again after another",
            400,
            &["InvalidPartOrder"],
            |g| {
                let [one, two] = [&g.part_etags[0], &g.part_etags[1]];
                g.complete(&parts(&[(1, one), (2, two), (1, one)]))
            },
        ),
        case(
            "Complete, a part that was not sent",
            400,
            &["InvalidPart"],
            |g| g.complete(&parts(&[(1, &g.part_etags[0]), (3, &g.part_etags[1])])),
        ),
        case("Complete, another ETag", 400, &["InvalidPart"], |g| {
            g.complete(&parts(&[(1, "\"00000000000000000000000000000000\"")]))
        }),
        case(
            "Complete, a part too small",
            400,
            &["EntityTooSmall"],
            |g| {
                let [one, two] = &g.part_etags;
                g.complete(&parts(&[(1, one), (2, two)]))
            },
        ),
        case("Complete, no such upload", 404, &["NoSuchUpload"], |g| {
            g.sign(
                Request::post("/malformed/upload?uploadId=nosuchupload")
                    .body(parts(&[(1, "\"a\"")])),
            )
        }),
        case(
            "Complete of another key's upload",
            404,
            &["NoSuchUpload"],
            |g| {
                let target = format!("/malformed/other?uploadId={}", g.upload);
                g.sign(Request::post(&target).body(parts(&[(1, &g.part_etags[0])])))
            },
        ),
    ]
}

fn parts(list: &[(u32, &str)]) -> String {
    let mut xml =
        "<CompleteMultipartUpload xmlns=\"http://s3.amazonaws.com/doc/2006-03-01/\">".to_owned();
    for (number, etag) in list {
        xml.push_str(&format!(
            "<Part><PartNumber>{number}</PartNumber><ETag>{etag}</ETag></Part>"
        ));
    }
    xml.push_str("</CompleteMultipartUpload>");
    xml
}

fn arguments() -> Vec<Case> {
    const ARGUMENT: &[&str] = &["InvalidArgument"];
    let get = |target: &'static str| move |g: &Ground| g.sign(Request::get(target));
    let part = |number: &'static str| {
        move |g: &Ground| {
            g.sign(
                Request::put(&format!(
                    "/malformed/upload?partNumber={number}&uploadId={}",
                    g.upload
                ))
                .body("x"),
            )
        }
    };
    let copy = |source: &'static str| {
        move |g: &Ground| {
            g.sign(Request::put("/malformed/copy").header("x-amz-copy-source", source))
        }
    };
    vec![
        case(
            "max-keys that is no number",
            400,
            ARGUMENT,
            get("/malformed?list-type=2&max-keys=many"),
        ),
        case(
            "negative max-keys",
            400,
            ARGUMENT,
            get("/malformed?list-type=2&max-keys=-1"),
        ),
        case(
            "max-keys beyond 32 bits",
            400,
            ARGUMENT,
            get("/malformed?max-keys=99999999999"),
        ),
        case(
            "unknown encoding-type",
            400,
            ARGUMENT,
            get("/malformed?encoding-type=rot13"),
        ),
        case(
            "unknown list-type",
            400,
            ARGUMENT,
            get("/malformed?list-type=3"),
        ),
        case(
            "continuation-token that is none",
            400,
            ARGUMENT,
            get("/malformed?list-type=2&continuation-token=nonsense"),
        ),
        case("range past the end", 416, &["InvalidRange"], |g| {
            g.sign(Request::get("/malformed/object").header("range", "bytes=1000-"))
        }),
        case("range of the last nothing", 416, &["InvalidRange"], |g| {
            g.sign(Request::get("/malformed/object").header("range", "bytes=-0"))
        }),
        case("range and part number", 400, &["InvalidRequest"], |g| {
            g.sign(Request::get("/malformed/object?partNumber=1").header("range", "bytes=0-1"))
        }),
        case(
            "part that the object does not have",
            416,
            &["InvalidPartNumber"],
            get("/malformed/object?partNumber=2"),
        ),
        case(
            "GET of part 0",
            400,
            ARGUMENT,
            get("/malformed/object?partNumber=0"),
        ),
        case("part number 0", 400, ARGUMENT, part("0")),
        case("part number 10001", 400, ARGUMENT, part("10001")),
        case("part number that is none", 400, ARGUMENT, part("one")),
        case("part of no such upload", 404, &["NoSuchUpload"], |g| {
            g.sign(Request::put("/malformed/upload?partNumber=1&uploadId=nosuchupload").body("x"))
        }),
        case(
            "ListParts of no such upload",
            404,
            &["NoSuchUpload"],
            get("/malformed/upload?uploadId=nosuchupload"),
        ),
        case("Abort of no such upload", 404, &["NoSuchUpload"], |g| {
            g.sign(Request::delete("/malformed/upload?uploadId=nosuchupload"))
        }),
        case(
            "copy source without a key",
            400,
            &["InvalidArgument", "InvalidRequest"],
            copy("malformed"),
        ),
        case(
            "empty copy source",
            400,
            &["InvalidArgument", "InvalidRequest"],
            copy(""),
        ),
        case(
            "copy source that does not exist",
            404,
            &["NoSuchKey"],
            copy("/malformed/nosuchkey"),
        ),
        case(
            "copy source in no bucket",
            404,
            &["NoSuchBucket"],
            copy("/nosuchbucket/key"),
        ),
        case("copy onto itself", 400, &["InvalidRequest"], |g| {
            g.sign(
                Request::put("/malformed/object").header("x-amz-copy-source", "/malformed/object"),
            )
        }),
        case("unknown metadata directive", 400, ARGUMENT, |g| {
            let request =
                Request::put("/malformed/copy").header("x-amz-copy-source", "/malformed/object");
            g.sign(request.header("x-amz-metadata-directive", "MERGE"))
        }),
        case("copied range that is none", 400, ARGUMENT, |g| {
            let target = format!("/malformed/upload?partNumber=3&uploadId={}", g.upload);
            let request = Request::put(&target).header("x-amz-copy-source", "/malformed/object");
            g.sign(request.header("x-amz-copy-source-range", "bytes=first"))
        }),
        case("copied range past the end", 400, &["InvalidRange"], |g| {
            let target = format!("/malformed/upload?partNumber=3&uploadId={}", g.upload);
            let request = Request::put(&target).header("x-amz-copy-source", "/malformed/object");
            g.sign(request.header("x-amz-copy-source-range", "bytes=0-1000"))
        }),
        case("metadata above 2 KiB", 400, &["MetadataTooLarge"], |g| {
            g.sign(g.put().header("x-amz-meta-big", &"x".repeat(2100)))
        }),
        case(
            "tags that are no query",
            400,
            &["InvalidArgument", "InvalidTag"],
            |g| g.sign(g.put().header("x-amz-tagging", "a=1&a=2")),
        ),
        case(
            "eleven tags",
            400,
            &["BadRequest", "InvalidTag", "InvalidArgument"],
            |g| {
                let tags: Vec<String> = (0..11).map(|index| format!("k{index}=v")).collect();
                g.sign(g.put().header("x-amz-tagging", &tags.join("&")))
            },
        ),
        case(
            "tag key of 129 letters",
            400,
            &["InvalidTag", "InvalidArgument"],
            |g| {
                g.sign(
                    g.put()
                        .header("x-amz-tagging", &format!("{}=v", "k".repeat(129))),
                )
            },
        ),
        case(
            "unknown storage class",
            400,
            &["InvalidStorageClass"],
            |g| g.sign(g.put().header("x-amz-storage-class", "FAST")),
        ),
        case(
            "condition that did not hold",
            412,
            &["PreconditionFailed"],
            |g| {
                g.sign(
                    Request::put("/malformed/object")
                        .body("x")
                        .header("if-none-match", "*"),
                )
            },
        ),
        case(
            "condition on an ETag that is another",
            412,
            &["PreconditionFailed"],
            |g| {
                g.sign(
                    Request::put("/malformed/object")
                        .body("x")
                        .header("if-match", "\"0123\""),
                )
            },
        ),
        case(
            "condition on an object that is not there",
            404,
            &["NoSuchKey"],
            |g| {
                g.sign(
                    Request::put("/malformed/nosuchkey")
                        .body("x")
                        .header("if-match", "\"0123\""),
                )
            },
        ),
    ]
}

/// What is not there must be said, never ignored.
fn unsupported() -> Vec<Case> {
    const NOT: &[&str] = &["NotImplemented"];
    let header = |name: &'static str, value: &'static str| {
        move |g: &Ground| g.sign(g.put().header(name, value))
    };
    let get = |target: &'static str| move |g: &Ground| g.sign(Request::get(target));
    vec![
        case("GET ?session", 501, NOT, get("/malformed?session")),
        case(
            "GET ?metadataTable",
            501,
            NOT,
            get("/malformed?metadataTable"),
        ),
        case(
            "GET object ?torrent",
            501,
            NOT,
            get("/malformed/object?torrent"),
        ),
        case("select", 501, NOT, |g| {
            g.sign(Request::post("/malformed/object?select&select-type=2").body("<x/>"))
        }),
        case("restore", 501, NOT, |g| {
            g.sign(Request::post("/malformed/object?restore").body("<x/>"))
        }),
        case(
            "encryption by KMS",
            501,
            NOT,
            header("x-amz-server-side-encryption", "aws:kms"),
        ),
        case(
            "encryption by the customer's key",
            501,
            NOT,
            header("x-amz-server-side-encryption-customer-algorithm", "AES256"),
        ),
        case(
            "website redirect to nowhere",
            400,
            &["InvalidRedirectLocation"],
            header("x-amz-website-redirect-location", "x"),
        ),
        case(
            "grant to nobody",
            400,
            &["InvalidArgument"],
            header("x-amz-grant-read", "id=\"x\""),
        ),
        case(
            "grant in an e-mail",
            501,
            NOT,
            header("x-amz-grant-read", "emailAddress=\"a@b.c\""),
        ),
        case(
            "ACL of logs",
            501,
            NOT,
            header("x-amz-acl", "log-delivery-write"),
        ),
        case(
            "unknown x-amz header",
            501,
            NOT,
            header("x-amz-make-coffee", "yes"),
        ),
        case("unknown method", 405, &["MethodNotAllowed"], |g| {
            g.sign(Request::new("PATCH", "/malformed/object"))
        }),
        case("DELETE of everything", 405, &["MethodNotAllowed"], |g| {
            g.sign(Request::delete("/"))
        }),
        case(
            "POST to an object",
            405,
            &["MethodNotAllowed", "NotImplemented"],
            |g| g.sign(Request::post("/malformed/object").body("x")),
        ),
    ]
}

/// Runs one case; what was wrong, if anything.
fn run(ground: &Ground, case: &Case) -> Result<(), String> {
    let wire = (case.make)(ground);
    let mut connection =
        Connection::open(ground.address).map_err(|error| format!("connect: {error}"))?;
    connection
        .send(&wire)
        .map_err(|error| format!("send: {error}"))?;
    if case.after == After::HalfClosed {
        connection
            .finish_sending()
            .map_err(|error| format!("half-close: {error}"))?;
    }
    let response = connection
        .read_response(&wire.method)
        .map_err(|error| format!("no response: {error}"))?;
    let mut wrong = Vec::new();
    if response.status != case.status {
        wrong.push(format!("status {}", response.status));
    }
    if !case.codes.is_empty() {
        let code = response.code().unwrap_or_default();
        if !case.codes.contains(&code.as_str()) {
            wrong.push(format!("code {code:?}"));
        }
        if response.element("RequestId").is_none_or(|id| id.is_empty()) {
            wrong.push("no RequestId".to_owned());
        }
        if response.get("content-type") != Some("application/xml") {
            wrong.push(format!("content-type {:?}", response.get("content-type")));
        }
    }
    let next = Request::get("/malformed/object").sign(ground.address, &ground.keys);
    if case.after == After::Same {
        if connection.is_closing() {
            wrong.push("the server closes the connection".to_owned());
        } else {
            match connection.call(&next) {
                Ok(good) if good.status == 200 && good.body == OBJECT => {}
                other => wrong.push(format!("then on the same connection: {other:?}")),
            }
        }
    }
    // Nothing of a refused request is left behind.
    let mut client = Client::new(ground.address, ground.keys.clone());
    let keys = client.list(BUCKET, "");
    if keys != ["object"] {
        wrong.push(format!("the bucket has {keys:?}"));
        for key in keys.iter().filter(|key| *key != "object") {
            let _ = client.delete(BUCKET, key);
        }
    }
    let fresh = Connection::open(ground.address).and_then(|mut fresh| fresh.call(&next));
    match fresh {
        Ok(good) if good.status == 200 && good.body == OBJECT => {}
        other => wrong.push(format!("then on a new connection: {other:?}")),
    }
    if wrong.is_empty() {
        return Ok(());
    }
    Err(format!(
        "wanted {} {:?}; got {}; response: {response:?}",
        case.status,
        case.codes,
        wrong.join(", ")
    ))
}

#[test]
fn every_malformed_request_gets_its_error() {
    let scratch = Scratch::new("malformed");
    let mut server = Server::start(&ServerOptions::new(scratch.join("data")));
    let mut client = server.client();
    let ground = Ground::prepare(&mut client);
    let groups = [
        authentication(),
        presigned(),
        chunk_framing(),
        transport(),
        digests(),
        names(),
        xml(),
        arguments(),
        unsupported(),
    ];
    let cases: Vec<Case> = groups.into_iter().flatten().collect();
    assert!(cases.len() >= 60);
    let only = std::env::var("HOLDFAST_TEST_CASE").ok();
    let mut failures = Vec::new();
    for case in &cases {
        if only
            .as_ref()
            .is_some_and(|only| !case.name.contains(only.as_str()))
        {
            continue;
        }
        if let Err(why) = run(&ground, case) {
            failures.push(format!("{}: {why}", case.name));
        }
    }
    assert!(server.is_alive(), "the server died");
    assert!(
        failures.is_empty(),
        "{} of {} cases:\n{}",
        failures.len(),
        cases.len(),
        failures.join("\n")
    );
    println!("{} malformed requests", cases.len());
}

/// The same builders without the fault are accepted: the table does not pass because everything is refused.
#[test]
fn without_the_fault_the_same_requests_are_good() {
    let scratch = Scratch::new("wellformed");
    let server = Server::start(&ServerOptions::new(scratch.join("data")));
    let mut client = server.client();
    let ground = Ground::prepare(&mut client);
    let crc = crc32c(&CHUNKED_DATA);
    let chunked = |form, trailer| {
        let (wire, body) = ground.chunked(form, trailer);
        join(wire, &body)
    };
    let good = [
        ("signed", ground.sign(ground.put())),
        ("unsigned payload", ground.sign(ground.put().unsigned())),
        ("presigned PUT", ground.presign(ground.put())),
        (
            "presigned GET",
            ground.presign(Request::get("/malformed/object")),
        ),
        ("signed chunks", chunked(Form::Signed, None)),
        (
            "signed chunks and trailer",
            chunked(Form::SignedTrailer, Some(("x-amz-checksum-crc32c", &crc))),
        ),
        (
            "unsigned chunks and trailer",
            chunked(Form::UnsignedTrailer, Some(("x-amz-checksum-crc32c", &crc))),
        ),
        // S3 wants 8 KiB of all chunks but the last; there is no harm in shorter ones.
        ("chunks of 1000 bytes", {
            let (wire, body) = chunked::put(
                "/malformed/new",
                Form::Signed,
                &CHUNKED_DATA,
                1000,
                None,
                ground.address,
                &ground.keys,
            );
            join(wire, &body)
        }),
        ("right decoded length", decoded_length(&ground, "20000")),
        (
            "DeleteObjects",
            ground.delete_objects("<Delete><Object><Key>a</Key></Object></Delete>"),
        ),
        (
            "fourteen minutes late",
            ground.sign(ground.put().at(-14 * 60)),
        ),
        (
            "key of 1024 bytes",
            ground.sign(Request::put(&format!("/malformed/{}", "k".repeat(1024))).body("x")),
        ),
        (
            "Content-MD5",
            ground.sign(ground.put().header("content-md5", &content_md5(b"hello"))),
        ),
        (
            "CRC32",
            ground.sign(
                ground
                    .put()
                    .header("x-amz-checksum-crc32", &crc32(b"hello")),
            ),
        ),
        (
            "no range at all is no error",
            ground.sign(Request::get("/malformed/object").header("range", "bytes=x")),
        ),
        (
            "Complete of one part",
            ground.complete(&parts(&[(1, &ground.part_etags[0])])),
        ),
    ];
    let mut connection = Connection::open(ground.address).expect("connect");
    for (name, wire) in good {
        let response = connection
            .call(&wire)
            .unwrap_or_else(|error| panic!("{name}: {error}"));
        assert!(response.is_success(), "{name}: {response:?}");
    }
}
