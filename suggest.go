package injecttoken

import (
	"slices"
	"strings"
)

// nearest returns the name that was probably meant, or "".
func nearest(name string, names []string) string {
	best, bestDistance := "", 3
	for _, candidate := range slices.Sorted(slices.Values(names)) {
		if d := distance(name, candidate); d < bestDistance && d < len(candidate)/2+1 {
			best, bestDistance = candidate, d
		}
	}
	return best
}

// didYouMean returns the hint for an unknown name: the nearest one, or else
// all there are.
func didYouMean(name string, names []string) string {
	if best := nearest(name, names); best != "" {
		return "did you mean " + best + "?"
	}
	if len(names) == 0 {
		return "there are none"
	}
	sorted := slices.Sorted(slices.Values(names))
	return "there are: " + strings.Join(sorted, ", ")
}

// distance is Levenshtein's, with two neighbours swapped as one step.
func distance(a, b string) int {
	var before, previous []int
	current := make([]int, len(b)+1)
	for j := range current {
		current[j] = j
	}
	for i := range len(a) {
		before, previous, current = previous, current, make([]int, len(b)+1)
		current[0] = i + 1
		for j := range len(b) {
			cost := 1
			if a[i] == b[j] {
				cost = 0
			}
			current[j+1] = min(previous[j+1]+1, current[j]+1, previous[j]+cost)
			if i > 0 && j > 0 && a[i] == b[j-1] && a[i-1] == b[j] {
				current[j+1] = min(current[j+1], before[j-1]+1)
			}
		}
	}
	return current[len(b)]
}
