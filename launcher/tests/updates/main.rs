//! Publishing, trusting and following a build with the real program: the guide, the service, the login, hostile servers.

mod guide;
mod hostile;
mod login;
mod service;
mod support;
