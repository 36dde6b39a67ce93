// SPDX-License-Identifier: MIT OR Apache-2.0
//! LibAFL put together: chooses the next program, learns from programs that ran. Knows nothing of epochs, guests and
//! files.

use anyhow::{Context, Result};
use harness::{
    epoch::ProgramOutcome,
    program::{Program, Schedule},
};
use libafl::{
    ExecutionProcessor, HasNamedMetadata, HasScheduler, StdFuzzer,
    corpus::{Corpus, CorpusId, InMemoryCorpus},
    events::NopEventManager,
    executors::ExitKind,
    feedbacks::{EagerOrFeedback, MapFeedbackMetadata, MaxMapFeedback},
    fuzzer::{ExecuteInputResult, NopInputFilter},
    inputs::BytesInputConverter,
    observers::{CanTrack, OwnedMapObserver},
    schedulers::Scheduler,
    state::{HasCorpus, HasExecutions, HasRand, StdState},
};
use libafl_bolts::{
    rands::{Rand, StdRand},
    tuples::tuple_list,
};

use crate::{
    config::Focus,
    faults::Faults,
    generate,
    input::ProgramInput,
    mutate::{self, Ctx},
    observe::{CostFeedback, CostObserver, EdgeMap, OBSERVED_ENTRIES, observed},
    scheduler::{self, SmallFast},
    walk::Walk,
};

/// Name of the map in LibAFL's state.
const MAP_NAME: &str = "edges";
/// Share of programs in which an allocation fails that did not fail before, while there are any.
const FAULTS_PROB: f64 = 0.2;
/// Share of programs made from nothing although there is a corpus.
const GENERATE_PROB: f64 = 0.1;

type State = StdState<InMemoryCorpus<ProgramInput>, ProgramInput, StdRand, InMemoryCorpus<ProgramInput>>;
type Feedbacks = EagerOrFeedback<MaxMapFeedback<EdgeMap, OwnedMapObserver<u8>>, CostFeedback>;
type Fuzzer = StdFuzzer<SmallFast, Feedbacks, BytesInputConverter, NopInputFilter, ()>;

/// Chooses programs, learns from them.
pub struct Chooser {
    state: State,
    fuzzer: Fuzzer,
    observers: (EdgeMap, (CostObserver, ())),
    schedules: Vec<Schedule>,
    walk: Walk,
    walk_prob: f64,
    faults: Faults,
    focus: Focus,
}

/// A program that was chosen.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Choice {
    /// What to run.
    pub program: Program,
    /// The corpus program it is a mutant of.
    pub parent: Option<CorpusId>,
}

impl Chooser {
    /// A chooser without experience. `schedules` is not empty; `walk_prob` is the share of programs that come from
    /// walking schedules, while there are any to walk.
    ///
    /// # Errors
    /// When LibAFL refuses its own parts.
    pub fn new(rand: StdRand, schedules: &[Schedule], walk_prob: f64, focus: &Focus) -> Result<Chooser> {
        let map = OwnedMapObserver::new(MAP_NAME, vec![0_u8; OBSERVED_ENTRIES]).track_indices();
        let cost = CostObserver::default();
        let mut feedback = EagerOrFeedback::new(MaxMapFeedback::new(&map), CostFeedback::new(&cost));
        let corpora = (InMemoryCorpus::new(), InMemoryCorpus::new());
        let state = StdState::new(rand, corpora.0, corpora.1, &mut feedback, &mut ())?;
        let fuzzer = StdFuzzer::new(SmallFast::default(), feedback, ());
        let (observers, schedules) = (tuple_list!(map, cost), schedules.to_vec());
        Ok(Chooser {
            state,
            fuzzer,
            observers,
            schedules,
            walk: Walk::default(),
            walk_prob,
            faults: Faults::about(focus.kinds.clone()),
            focus: focus.clone(),
        })
    }

    /// The next program: a mutant of a corpus program, one under another schedule, one with another allocation
    /// failing, now and then one from nothing.
    ///
    /// # Errors
    /// When LibAFL's corpus is inconsistent.
    pub fn choose(&mut self) -> Result<Choice> {
        if self.state.rand_mut().coinflip(self.walk_prob)
            && let Some(choice) = self.walk.next_variant()
        {
            return Ok(choice);
        }
        if self.state.rand_mut().coinflip(FAULTS_PROB)
            && let Some(choice) = self.faults.next_variant()
        {
            return Ok(choice);
        }
        if self.corpus_len() == 0 || self.state.rand_mut().coinflip(GENERATE_PROB) {
            let program = generate::program(self.state.rand_mut(), &self.schedules);
            return Ok(Choice { program, parent: None });
        }
        let parent_id = scheduler(&mut self.fuzzer).next(&mut self.state)?;
        let n_programs = self.corpus_len();
        let nth = self.state.rand_mut().below_or_zero(n_programs);
        let other_id = self.state.corpus().nth(nth);
        let (parent, other) = (self.program(parent_id)?, self.program(other_id)?);
        let mut ctx = Ctx { rand: self.state.rand_mut(), other: &other, schedules: &self.schedules };
        Ok(Choice { program: mutate::mutant(&mut ctx, &parent), parent: Some(parent_id) })
    }

    /// Learns from a choice that ran to its end; true when it is now in the corpus.
    ///
    /// # Errors
    /// When LibAFL refuses the observation.
    pub fn learn(&mut self, choice: &Choice, outcome: &ProgramOutcome) -> Result<bool> {
        let program = &choice.program;
        *self.state.executions_mut() += 1;
        self.faults.learn(program, outcome);
        let hits = observed(program, outcome);
        let cost = scheduler::cost(outcome.guest_time, program.n_ops());
        let is_news = self.is_news(&hits)?;
        if !is_news && !scheduler(&mut self.fuzzer).improves(cost, hits.iter().map(|&(entry, _)| entry)) {
            return Ok(false);
        }
        let (map, (cost, ())) = &mut self.observers;
        cost.guest_time = outcome.guest_time;
        hits.iter().for_each(|&(entry, bucket)| map.as_mut()[entry] = bucket);
        let kept = self.evaluate(ProgramInput(program.clone()), is_news)?;
        if let Some(id) = kept {
            let is_focus = match choice.parent {
                Some(parent) => scheduler(&mut self.fuzzer).is_focus(parent),
                None => self.focus.programs.contains(program),
            };
            if is_focus {
                scheduler(&mut self.fuzzer).focus_on(id);
            }
            if is_news && (is_focus || self.focus.programs.is_empty()) {
                self.walk.offer(id, program, outcome);
                self.faults.offer(id, program, outcome);
            }
        }
        let map = self.observers.0.as_mut();
        hits.iter().for_each(|&(entry, _)| map[entry] = 0);
        Ok(kept.is_some())
    }

    /// Hands LibAFL what the observers hold: to be judged when it is news, to be kept in any case when it is not.
    fn evaluate(&mut self, input: ProgramInput, is_news: bool) -> Result<Option<CorpusId>> {
        let (fuzzer, state, observers) = (&mut self.fuzzer, &mut self.state, &self.observers);
        let (mut manager, exit) = (NopEventManager::new(), ExitKind::Ok);
        Ok(if is_news {
            fuzzer.evaluate_execution(state, &mut manager, &input, observers, &exit, false)?.1
        } else {
            let kept = ExecuteInputResult::Corpus;
            fuzzer.process_execution(state, &mut manager, &input, &kept, &exit, observers)?
        })
    }

    /// A child of that program crashed the kernel: mutate it less.
    pub fn blame(&mut self, parent: CorpusId) {
        scheduler(&mut self.fuzzer).blame(parent);
    }

    /// Programs in the corpus.
    pub fn corpus_len(&self) -> usize {
        self.state.corpus().count()
    }

    /// Entries of the guest's edge map that were ever hit.
    pub fn n_edges(&self) -> usize {
        let history = self.history().map_or(&[][..], |map| &map.history_map);
        history.iter().take(abi::shm::MAP_ENTRIES).filter(|&&bucket| bucket > 0).count()
    }

    /// The randomness, to be stored.
    pub fn rand(&self) -> &StdRand {
        self.state.rand()
    }

    /// Answers what the map feedback would, from the few entries a program hits instead of the whole map. Nearly every
    /// program is no news, and guests wait while the host looks.
    fn is_news(&self, hits: &[(usize, u8)]) -> Result<bool> {
        let history = &self.history()?.history_map;
        // The feedback sizes its map when it first looks.
        Ok(hits.iter().any(|&(entry, bucket)| history.get(entry).is_none_or(|&old| old < bucket)))
    }

    fn history(&self) -> Result<&MapFeedbackMetadata<u8>> {
        Ok(self.state.named_metadata::<MapFeedbackMetadata<u8>>(MAP_NAME)?)
    }

    fn program(&self, id: CorpusId) -> Result<Program> {
        let testcase = self.state.corpus().get(id)?.borrow();
        let input = testcase.input().as_ref().context("a corpus program without its text")?;
        Ok(input.0.clone())
    }
}

/// The fuzzer's scheduler; LibAFL's own accessor cannot tell for which input.
fn scheduler(fuzzer: &mut Fuzzer) -> &mut SmallFast {
    HasScheduler::<ProgramInput, State>::scheduler_mut(fuzzer)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn outcome(cover: &[(u16, u16)]) -> ProgramOutcome {
        ProgramOutcome { started: true, finished: true, cover: cover.to_vec(), ..ProgramOutcome::default() }
    }

    fn root(text: &str) -> Choice {
        Choice { program: text.parse().unwrap(), parent: None }
    }

    #[test]
    fn most_programs_are_made_from_those_in_the_focus_and_their_offspring() {
        let about = root("thread cpu=0\n yield\n drop_caches what=slab\n");
        let others = (1..20).map(|n| root(&format!("thread cpu=0\n{}", " yield\n".repeat(n))));
        let focus = Focus { programs: vec![about.program.clone()], ..Focus::default() };
        let mut chooser = Chooser::new(StdRand::with_seed(1), &[Schedule::default()], 0.0, &focus).unwrap();
        for (n, choice) in [about].into_iter().chain(others).enumerate() {
            assert!(chooser.learn(&choice, &outcome(&[(n as u16, 1)])).unwrap());
        }
        let of_focus = |chooser: &mut Chooser, ids: &[usize]| {
            let parents = (0..200).filter_map(|_| chooser.choose().unwrap().parent);
            parents.filter(|parent| ids.contains(&parent.0)).count()
        };
        assert!(of_focus(&mut chooser, &[0]) > 110);
        let child = Choice { parent: Some(CorpusId(0)), ..root("thread cpu=0\n drop_caches what=slab\n") };
        assert!(chooser.learn(&child, &outcome(&[(100, 1)])).unwrap());
        assert!(of_focus(&mut chooser, &[20]) > 40, "a child is as good");
    }

    #[test]
    fn a_program_that_hits_the_same_at_half_the_cost_is_kept() {
        let mut chooser =
            Chooser::new(StdRand::with_seed(1), &[Schedule::default()], 0.0, &Focus::default()).unwrap();
        let large = root(&format!("thread cpu=0\n{}", " yield\n".repeat(40)));
        let small = root("thread cpu=0\n yield\n");
        let result = outcome(&[(7, 1), (8, 1)]);
        assert!(chooser.learn(&large, &result).unwrap());
        assert!(!chooser.learn(&large, &result).unwrap());
        assert!(chooser.learn(&small, &result).unwrap());
        assert!(!chooser.learn(&small, &result).unwrap());
        assert_eq!((chooser.corpus_len(), chooser.n_edges()), (2, 2));
    }

    #[test]
    fn a_program_is_kept_for_a_new_edge_or_a_higher_bucket_and_not_twice() {
        let mut chooser =
            Chooser::new(StdRand::with_seed(1), &[Schedule::default()], 0.0, &Focus::default()).unwrap();
        let program = chooser.choose().unwrap();
        assert!(!chooser.learn(&program, &outcome(&[])).unwrap());
        assert!(chooser.learn(&program, &outcome(&[(7, 1), (65535, 1)])).unwrap());
        assert!(!chooser.learn(&program, &outcome(&[(7, 1)])).unwrap());
        assert!(chooser.learn(&program, &outcome(&[(7, 20)])).unwrap());
        assert!(!chooser.learn(&program, &outcome(&[(7, 17), (65535, 1)])).unwrap());
        assert!(chooser.learn(&program, &outcome(&[(8, 1)])).unwrap());
        assert_eq!((chooser.corpus_len(), chooser.n_edges()), (3, 3));
        let children = (0..50).filter(|_| chooser.choose().unwrap().parent.is_some()).count();
        assert!(children > 25, "with a corpus most programs are mutants: {children} of 50");
    }
}
