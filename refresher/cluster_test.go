package refresher

import (
	"flag"
	"fmt"
	"math/rand/v2"
	"testing"
	"testing/synctest"
	"time"
)

var (
	modelSeed  = flag.Uint64("model.seed", 0, "the one schedule of the model to run")
	modelSeeds = flag.Uint64("model.schedules", 800, "how many schedules of the model are run")
)

func TestModelNoRefreshTokenIsSpentTwiceAndEveryNodeHasAToken(t *testing.T) {
	runModels(t, *modelSeeds, func(m *model, seed uint64) { m.oneUse = seed%2 == 0 })
}

func TestModelWhatAPersonDoesComesOutOnTop(t *testing.T) {
	runModels(t, *modelSeeds/4, func(m *model, _ uint64) { m.oneUse, m.person = true, true })
}

// runModels runs schedules of models that are alike.
func runModels(t *testing.T, seeds uint64, kind func(m *model, seed uint64)) {
	first, last := uint64(1), seeds
	if *modelSeed != 0 {
		first, last = *modelSeed, *modelSeed
	}
	const workers = 4
	for worker := range uint64(workers) {
		t.Run(fmt.Sprint(worker), func(t *testing.T) {
			t.Parallel()
			for seed := first + worker; seed <= last && !t.Failed(); seed += workers {
				runModel(t, seed, kind)
			}
		})
	}
}

func runModel(t *testing.T, seed uint64, kind func(m *model, seed uint64)) {
	synctest.Test(t, func(t *testing.T) {
		random := rand.New(rand.NewPCG(seed, 1)) //nolint:gosec // a schedule that can be run again
		m := &model{t: t, random: random}
		kind(m, seed)
		m.provider.lifetime = []time.Duration{3 * time.Second, 10 * time.Second, time.Minute}[seed%3]
		m.provider.failing = []float64{0.1, 0, 0.5}[seed/2%3]
		m.faulty = []float64{0, 0.02, 0.2}[seed/3%3]
		m.run()
		if t.Failed() {
			t.Logf("this was the schedule of seed %d", seed)
		}
	})
}
