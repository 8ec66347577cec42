//! Tests over real parts, as one binary: real videos, real databases, real processes.

mod annotations;
mod bad_input;
mod callers;
mod captions;
mod chaos;
mod cli;
mod clips;
mod conformance;
mod containers;
mod dashboard;
mod films_from_life;
mod films_of_makers;
mod floors;
mod layout;
mod leftovers;
mod namesakes;
mod no_text;
mod notifications;
mod ocr;
mod prefect;
mod rules;
mod studio;
mod video;
mod worker;
mod world;
