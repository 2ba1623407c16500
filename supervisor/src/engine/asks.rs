//! What operators ask of the engine.

use super::{Engine, Outcome, Point};
use crate::config;
use crate::fleet::{AfterDrain, Event};
use tokio::sync::oneshot;

/// What is asked; children and groups by name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Ask {
    /// Start a child, also one in quarantine.
    Start(String),
    /// Stop a child.
    Stop(String),
    /// Stop and start a child.
    Restart(String),
    /// Let a child finish by itself; it stays down.
    Drain(String),
    /// Let a child finish by itself and start it anew, with another program if one is given, else as the file says now.
    Upgrade(String, Option<String>),
    /// Drain all children of a group and hold them.
    Maintain(String),
    /// Start what is held of a group.
    Release(String),
    /// Read the configuration again.
    Reload,
    /// End, and leave the children running for another supervisor.
    Detach,
    /// Stop everybody and end.
    Shutdown,
}

/// A request and where its answer goes.
#[derive(Debug)]
pub enum Asked {
    /// Do something; the answer is what was done, or why not.
    Do(Ask, oneshot::Sender<Result<String, Refused>>),
    /// The page's curves of a child.
    History(String, oneshot::Sender<Option<Vec<Point>>>),
}

/// Why something was not done.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Refused {
    /// There is no such child or group.
    Unknown(String),
    /// Not as things stand.
    NotNow(String),
}

impl Engine {
    pub(super) fn answer(&mut self, asked: Asked) {
        match asked {
            Asked::Do(ask, answer) => {
                let done = self.obey(ask);
                // Whoever asked may be gone.
                let _ = answer.send(done);
            }
            Asked::History(name, answer) => {
                let child = self.children.iter().find(|child| child.config.name == name);
                let _ = answer.send(child.map(|child| child.history.iter().copied().collect()));
            }
        }
    }

    fn child(&self, name: &str) -> Result<usize, Refused> {
        let found = self.children.iter().position(|child| child.config.name == name);
        found.ok_or_else(|| Refused::Unknown(format!("there is no child {name}")))
    }

    fn group(&self, name: &str) -> Result<Vec<usize>, Refused> {
        let found = self.config.groups.iter().position(|(group, _)| group == name);
        let group = found.ok_or_else(|| Refused::Unknown(format!("there is no group {name}")))?;
        Ok((0..self.children.len()).filter(|&child| self.children[child].config.rules.group == group).collect())
    }

    fn obey(&mut self, ask: Ask) -> Result<String, Refused> {
        if self.finishing && !matches!(ask, Ask::Stop(_) | Ask::Shutdown) {
            return Err(Refused::NotNow("the supervisor is stopping".to_owned()));
        }
        match ask {
            Ask::Start(name) => self.one(&name, "start", Event::Start),
            Ask::Stop(name) => self.one(&name, "stop", Event::Stop),
            Ask::Restart(name) => self.one(&name, "restart", Event::Restart),
            Ask::Drain(name) => self.one(&name, "drain", |child| Event::Drain(child, AfterDrain::Stop)),
            Ask::Upgrade(name, program) => {
                let child = self.child(&name)?;
                match program {
                    Some(program) => {
                        if !std::path::Path::new(&program).is_file() {
                            return Err(Refused::NotNow(format!("there is no program {program}")));
                        }
                        self.children[child].config.command[0] = program;
                    }
                    None => drop(self.reload()?),
                }
                self.one(&name, "upgrade", |child| Event::Drain(child, AfterDrain::Start))
            }
            Ask::Maintain(name) => {
                let children = self.group(&name)?;
                self.tell(None, "asked", format!("maintenance of {name}"));
                for &child in children.iter().rev() {
                    self.step(Event::Drain(child, AfterDrain::Hold));
                }
                Ok(format!("{} children of {name} are drained and held", children.len()))
            }
            Ask::Release(name) => {
                let children = self.group(&name)?;
                self.tell(None, "asked", format!("end of the maintenance of {name}"));
                for &child in &children {
                    self.step(Event::Release(child));
                }
                Ok(format!("{name} is released"))
            }
            Ask::Reload => self.reload(),
            Ask::Detach => {
                self.tell(None, "asked", "detach: the children go on without a supervisor".to_owned());
                self.outcome = Some(Outcome::Detached);
                Ok("the supervisor ends, its children go on".to_owned())
            }
            Ask::Shutdown => {
                self.stop_all("a request");
                Ok("everybody is stopped".to_owned())
            }
        }
    }

    fn one(&mut self, name: &str, what: &str, event: impl Fn(usize) -> Event) -> Result<String, Refused> {
        let child = self.child(name)?;
        self.tell(Some(child), "asked", what.to_owned());
        self.step(event(child));
        Ok(format!("{what} {name}"))
    }

    /// Reads the configuration again. Which children there are, and their groups, only another supervisor changes.
    pub(super) fn reload(&mut self) -> Result<String, Refused> {
        let result = self.try_reload();
        match &result {
            Ok(text) => self.tell(None, "note", text.clone()),
            Err(Refused::NotNow(text) | Refused::Unknown(text)) => {
                self.tell(None, "note", format!("the configuration was not changed: {text}"));
            }
        }
        result
    }

    fn try_reload(&mut self) -> Result<String, Refused> {
        let config = config::load(&self.path).map_err(|error| {
            let error = anyhow::Error::new(error);
            Refused::NotNow(format!("{error:#}"))
        })?;
        let who = |config: &config::Config| -> Vec<(String, usize)> {
            config.children.iter().map(|child| (child.name.clone(), child.rules.group)).collect()
        };
        let (now, then) = (&self.config, &config);
        if who(now) != who(then) || now.groups != then.groups || now.state_dir != then.state_dir {
            let text = "children or groups were added, removed or moved: end this supervisor with `detach` and start another, \
                        which takes over the children";
            return Err(Refused::NotNow(text.to_owned()));
        }
        let mut changed = 0;
        for (index, new) in config.children.iter().enumerate() {
            let child = &mut self.children[index];
            if child.config != *new {
                changed += 1;
                child.config = new.clone();
                self.fleet.set_rules(index, new.rules.clone());
            }
        }
        self.config = config;
        Ok(format!("{changed} children have changed; what they run is theirs from their next start on"))
    }
}
