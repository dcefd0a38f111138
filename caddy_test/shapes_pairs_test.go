package caddy_test

import (
	"maps"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
)

// axis is one property in which providers differ, and the values that it has.
type axis struct {
	name   string
	values []string
}

// exclusion forbids a combination: a configuration that the product refuses, or
// one in which a value would have no meaning. It names a value of each axis that
// takes part, several separated by blanks, or with a ! in front those that do not.
type exclusion map[string]string

// holds says whether a combination is the forbidden one. Of a combination that
// is not complete yet it says no.
func (e exclusion) holds(of map[string]string) bool {
	for name, values := range e {
		value, ok := of[name]
		if !ok || !named(values, value) {
			return false
		}
	}
	return true
}

// named says whether a value is one of a list, or none where the list begins with
// a !.
func named(list, value string) bool {
	list, negated := strings.CutPrefix(list, "!")
	for word := range strings.SplitSeq(list, " ") {
		if word == value {
			return !negated
		}
	}
	return negated
}

// pair is two values that meet in one combination.
type pair struct{ axisA, valueA, axisB, valueB string }

// space is all combinations that are not forbidden.
type space struct {
	axes      []axis
	forbidden []exclusion
}

func (s *space) allows(of map[string]string) bool {
	return !slices.ContainsFunc(s.forbidden, func(e exclusion) bool { return e.holds(of) })
}

// completes says whether some complete combination begins with these values.
func (s *space) completes(of map[string]string) bool {
	if !s.allows(of) {
		return false
	}
	for _, a := range s.axes {
		if _, chosen := of[a.name]; chosen {
			continue
		}
		defer delete(of, a.name)
		return slices.ContainsFunc(a.values, func(value string) bool {
			of[a.name] = value
			return s.completes(of)
		})
	}
	return true
}

// pairs returns every pair that some combination holds, in order.
func (s *space) pairs() (all []pair) {
	for i, a := range s.axes {
		for _, b := range s.axes[i+1:] {
			for _, x := range a.values {
				for _, y := range b.values {
					if s.completes(map[string]string{a.name: x, b.name: y}) {
						all = append(all, pair{a.name, x, b.name, y})
					}
				}
			}
		}
	}
	return all
}

// pairsOf returns those of one combination.
func (s *space) pairsOf(of map[string]string) []pair {
	var all []pair
	for i, a := range s.axes {
		for _, b := range s.axes[i+1:] {
			if x, y := of[a.name], of[b.name]; x != "" && y != "" {
				all = append(all, pair{a.name, x, b.name, y})
			}
		}
	}
	return all
}

// cover returns combinations in which every pair occurs, the same ones each
// time. It is greedy: of some candidates it takes the one that has most of what is
// missing.
func (s *space) cover() []map[string]string {
	open := s.pairs() // those that are missing, in order
	missing := setOf(open)
	chance := rand.New(rand.NewPCG(6749, 6750)) //nolint:gosec // the same each time
	var rows []map[string]string
	for len(open) > 0 {
		var best map[string]string
		most := 0
		for range 12 {
			seed := open[chance.IntN(len(open))]
			if row, n := s.candidate(seed, missing, chance); n > most {
				best, most = row, n
			}
		}
		for _, p := range s.pairsOf(best) {
			delete(missing, p)
		}
		open = slices.DeleteFunc(open, func(p pair) bool { return !missing[p] })
		rows = append(rows, best)
	}
	return rows
}

// gain is how many missing pairs the i-th axis makes with the others.
func (s *space) gain(of map[string]string, i int, missing map[pair]bool) (n int) {
	a := s.axes[i].name
	for j, b := range s.axes {
		p := pair{a, of[a], b.name, of[b.name]}
		if j < i {
			p = pair{b.name, of[b.name], a, of[a]}
		}
		if p.valueA != "" && p.valueB != "" && missing[p] {
			n++
		}
	}
	return n
}

// candidate completes a pair, one axis after the other, by what gains most. It
// returns how many missing pairs that has.
func (s *space) candidate(seed pair, missing map[pair]bool, chance *rand.Rand) (row map[string]string, gained int) {
	row = map[string]string{seed.axisA: seed.valueA, seed.axisB: seed.valueB}
	gained = 1
	for _, i := range chance.Perm(len(s.axes)) {
		a := s.axes[i]
		if row[a.name] != "" {
			continue
		}
		best, most := "", -1
		for _, j := range chance.Perm(len(a.values)) {
			row[a.name] = a.values[j]
			if n := s.gain(row, i, missing); n > most && s.completes(row) {
				best, most = a.values[j], n
			}
		}
		row[a.name] = best
		gained += most
	}
	return row, gained
}

// small is a space of which all combinations can be looked at.
var small = space{
	axes: []axis{{"a", []string{"1", "2", "3"}}, {"b", []string{"1", "2", "3"}}, {"c", []string{"1", "2"}}, {"d", []string{"1", "2", "3", "4"}}},
	forbidden: []exclusion{
		{"a": "1", "b": "!1"}, // 1 goes with 1 alone …
		{"b": "1", "c": "1"},  // … and so never with c 1, which nobody has said
		{"a": "2", "c": "2", "d": "1 2"},
	},
}

// all returns every combination of a space, by looking at each.
func (s *space) all() []map[string]string {
	rows := []map[string]string{{}}
	for _, a := range s.axes {
		var longer []map[string]string
		for _, row := range rows {
			for _, value := range a.values {
				next := maps.Clone(row)
				next[a.name] = value
				longer = append(longer, next)
			}
		}
		rows = longer
	}
	return slices.DeleteFunc(rows, func(row map[string]string) bool { return !s.allows(row) })
}

func setOf(pairs []pair) map[pair]bool {
	set := make(map[pair]bool, len(pairs))
	for _, p := range pairs {
		set[p] = true
	}
	return set
}

// covered returns the pairs that occur in combinations.
func (s *space) covered(rows []map[string]string) map[pair]bool {
	seen := make(map[pair]bool)
	for _, row := range rows {
		for _, p := range s.pairsOf(row) {
			seen[p] = true
		}
	}
	return seen
}

func TestThePairsOfASpaceAreThoseOfItsCombinations(t *testing.T) {
	t.Parallel()
	if got, want := setOf(small.pairs()), small.covered(small.all()); !maps.Equal(got, want) {
		t.Errorf("pairs are %v, want %v", got, want)
	}
	if slices.Contains(small.pairs(), pair{"a", "1", "c", "1"}) {
		t.Error("a pair that no combination holds counts as one")
	}
}

func TestACoverHoldsEveryPairAndNothingForbidden(t *testing.T) {
	t.Parallel()
	for name, s := range map[string]*space{"a small space": &small, "that of the shapes": shapeSpace()} {
		rows, pairs := s.cover(), setOf(s.pairs())
		if got := s.covered(rows); !maps.Equal(got, pairs) {
			t.Errorf("%s: %d pairs, want %d", name, len(got), len(pairs))
		}
		for _, row := range rows {
			if len(row) != len(s.axes) || !s.allows(row) {
				t.Errorf("%s: %v is forbidden or not complete", name, row)
			}
		}
		if again := s.cover(); !slices.EqualFunc(rows, again, maps.Equal) {
			t.Errorf("%s: the cover differs from time to time", name)
		}
		if got := s.covered(rows[:len(rows)-1]); maps.Equal(got, pairs) {
			t.Errorf("%s: the last of %d combinations adds nothing", name, len(rows))
		}
	}
}
