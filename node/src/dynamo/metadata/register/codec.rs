//! The register's bytes, format 1: votes on disk, requests and replies between nodes.
//!
//! Documents travel in their own encoding, and are validated when they are decoded: whatever a
//! peer sends, a voter sees sound documents only. A new layout of fields gets a new format byte
//! beside this one.

use std::sync::Arc;

use bytes::Bytes;

use super::{AcceptedDocument, Answer, Ballot, Refusal, Reply, Request, Step, Votes};
use crate::dynamo::encoding::{DecodeError, Flaw, Reader, Writer};
use crate::dynamo::key::NodeId;
use crate::dynamo::metadata::document::{Document, DocumentError};

const FORMAT: u8 = 1;

impl Votes {
    /// The bytes to store.
    pub fn encode(&self) -> Bytes {
        let mut writer = Writer::new();
        writer.u8(FORMAT);
        writer.u64(self.instance);
        write_ballot(&mut writer, self.reserved);
        write_ballot(&mut writer, self.promised);
        write_vote(&mut writer, self.accepted.as_ref());
        writer.finish()
    }

    /// Decodes what [`Votes::encode`] gave.
    pub fn decode(input: impl Into<Bytes>) -> Result<Self, DocumentError> {
        let mut reader = Reader::new(input);
        reader.format(FORMAT, "votes format")?;
        let votes = Self {
            instance: reader.u64("instance")?,
            reserved: read_ballot(&mut reader)?,
            promised: read_ballot(&mut reader)?,
            accepted: read_vote(&mut reader)?,
        };
        reader.finish("votes")?;
        Ok(votes)
    }
}

impl Request {
    /// The bytes to send.
    pub fn encode(&self) -> Bytes {
        let mut writer = Writer::new();
        writer.u8(FORMAT);
        writer.u64(self.instance);
        write_ballot(&mut writer, self.ballot);
        match &self.step {
            Step::Reserve => writer.u8(0),
            Step::Prepare => writer.u8(1),
            Step::Accept(document) => {
                writer.u8(2);
                writer.bytes(&document.encode());
            }
            Step::Recover => writer.u8(3),
        }
        writer.finish()
    }

    /// Decodes what [`Request::encode`] gave.
    pub fn decode(input: impl Into<Bytes>) -> Result<Self, DocumentError> {
        let mut reader = Reader::new(input);
        reader.format(FORMAT, "request format")?;
        let (instance, ballot) = (reader.u64("instance")?, read_ballot(&mut reader)?);
        let at = reader.at();
        let step = match reader.u8("step")? {
            0 => Step::Reserve,
            1 => Step::Prepare,
            2 => Step::Accept(read_document(&mut reader, "proposed document")?),
            3 => Step::Recover,
            other => return Err(unknown("step", at, other)),
        };
        reader.finish("request")?;
        Ok(Self { instance, ballot, step })
    }
}

impl Reply {
    /// The bytes to send.
    pub fn encode(&self) -> Bytes {
        let mut writer = Writer::new();
        writer.u8(FORMAT);
        write_ballot(&mut writer, self.ballot);
        match &self.answer {
            Answer::Reserved => writer.u8(0),
            Answer::Promised(vote) => {
                writer.u8(1);
                write_vote(&mut writer, vote.as_ref());
            }
            Answer::Accepted => writer.u8(2),
            Answer::Told(vote) => {
                writer.u8(3);
                write_vote(&mut writer, vote.as_ref());
            }
            Answer::Refused(refusal) => {
                writer.u8(4);
                write_refusal(&mut writer, refusal);
            }
        }
        writer.finish()
    }

    /// Decodes what [`Reply::encode`] gave.
    pub fn decode(input: impl Into<Bytes>) -> Result<Self, DocumentError> {
        let mut reader = Reader::new(input);
        reader.format(FORMAT, "reply format")?;
        let ballot = read_ballot(&mut reader)?;
        let at = reader.at();
        let answer = match reader.u8("answer")? {
            0 => Answer::Reserved,
            1 => Answer::Promised(read_vote(&mut reader)?),
            2 => Answer::Accepted,
            3 => Answer::Told(read_vote(&mut reader)?),
            4 => Answer::Refused(read_refusal(&mut reader)?),
            other => return Err(unknown("answer", at, other)),
        };
        reader.finish("reply")?;
        Ok(Self { ballot, answer })
    }
}

fn write_refusal(writer: &mut Writer, refusal: &Refusal) {
    match refusal {
        Refusal::Newer(document) => {
            writer.u8(0);
            writer.bytes(&document.encode());
        }
        Refusal::Behind { version } => {
            writer.u8(1);
            writer.u64(*version);
        }
        Refusal::NotVoter => writer.u8(2),
        Refusal::Recovering => writer.u8(3),
        Refusal::Outvoted { highest } => {
            writer.u8(4);
            write_ballot(writer, *highest);
        }
        Refusal::Unchained => writer.u8(5),
        Refusal::Alarmed => writer.u8(6),
    }
}

fn read_refusal(reader: &mut Reader) -> Result<Refusal, DocumentError> {
    let at = reader.at();
    Ok(match reader.u8("refusal")? {
        0 => Refusal::Newer(read_document(reader, "newer document")?),
        1 => Refusal::Behind { version: reader.u64("known version")? },
        2 => Refusal::NotVoter,
        3 => Refusal::Recovering,
        4 => Refusal::Outvoted { highest: read_ballot(reader)? },
        5 => Refusal::Unchained,
        6 => Refusal::Alarmed,
        other => return Err(unknown("refusal", at, other)),
    })
}

fn write_ballot(writer: &mut Writer, ballot: Ballot) {
    writer.u64(ballot.round);
    writer.u64(ballot.proposer.0);
    writer.u64(ballot.nonce);
}

fn read_ballot(reader: &mut Reader) -> Result<Ballot, DecodeError> {
    let round = reader.u64("ballot's round")?;
    let proposer = NodeId(reader.u64("ballot's proposer")?);
    Ok(Ballot { round, proposer, nonce: reader.u64("ballot's nonce")? })
}

fn write_vote(writer: &mut Writer, vote: Option<&AcceptedDocument>) {
    writer.u8(vote.is_some().into());
    if let Some((ballot, document)) = vote {
        write_ballot(writer, *ballot);
        writer.bytes(&document.encode());
    }
}

fn read_vote(reader: &mut Reader) -> Result<Option<AcceptedDocument>, DocumentError> {
    let at = reader.at();
    match reader.u8("accepted")? {
        0 => Ok(None),
        1 => {
            let ballot = read_ballot(reader)?;
            Ok(Some((ballot, read_document(reader, "accepted document")?)))
        }
        other => Err(unknown("accepted", at, other)),
    }
}

fn read_document(reader: &mut Reader, what: &'static str) -> Result<Arc<Document>, DocumentError> {
    Ok(Arc::new(Document::decode(reader.bytes(what)?)?))
}

fn unknown(what: &'static str, at: usize, found: u8) -> DocumentError {
    DecodeError { what, at, flaw: Flaw::Value(found.into()) }.into()
}
