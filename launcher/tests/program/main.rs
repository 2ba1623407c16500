//! The `vsekai` program from outside: casync's formats, publishing, trusting, installing and following a build, login, the service, hostile
//! servers, servers that go away and come back, the portal, the guide.

mod formats;
mod guide;
mod hostile;
mod installation;
mod list_chunks;
mod login;
mod network;
mod portal;
mod service;
mod support;
