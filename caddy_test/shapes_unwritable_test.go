package caddy_test

import (
	"fmt"
	"maps"
	"strings"
	"testing"

	"github.com/caddytoken/inject-token/caddy_test/internal/harness"
)

// onlyForbiddenBy returns a combination that one exclusion forbids and no other.
func (s *space) onlyForbiddenBy(e exclusion) map[string]string {
	without := &space{axes: s.axes}
	for _, f := range s.forbidden {
		if !maps.Equal(f, e) {
			without.forbidden = append(without.forbidden, f)
		}
	}
	for _, p := range without.pairs() {
		of := map[string]string{p.axisA: p.valueA, p.axisB: p.valueB}
		for _, a := range s.axes { // the values of the exclusion first
			for _, value := range a.values {
				if list, ok := e[a.name]; ok && of[a.name] == "" && named(list, value) {
					of[a.name] = value
				}
			}
		}
		if e.holds(of) && without.completes(maps.Clone(of)) {
			return without.completed(of)
		}
	}
	return nil
}

// completed returns the first complete combination with these values.
func (s *space) completed(of map[string]string) map[string]string {
	for _, a := range s.axes {
		for _, value := range a.values {
			if of[a.name] != "" {
				break
			}
			of[a.name] = value
			if !s.completes(maps.Clone(of)) {
				of[a.name] = ""
			}
		}
	}
	return of
}

// TestWhatNoShapeHasCannotBeWritten holds that a combination is left out because
// the product refuses it, and not to have less to test.
func TestWhatNoShapeHasCannotBeWritten(t *testing.T) {
	t.Parallel()
	for _, u := range unwritable {
		of := shapeSpace().onlyForbiddenBy(u.exclusion)
		if of == nil {
			t.Errorf("%v is forbidden by something else as well", u.exclusion)
			continue
		}
		s := &shape{"left-out", of}
		dir := t.TempDir()
		harness.WriteFile(t, dir, "Caddyfile", fmt.Sprintf("{\n\ttoken_sources {\n%s\n%s\n}\n}\n", partnerShape.source("http://127.0.0.1:1"), strings.ReplaceAll(s.source("http://127.0.0.1:1"), "{{dir}}", dir)))
		said, code := harness.Run(t, dir, "adapt", "--config", "Caddyfile", "--adapter", "caddyfile")
		if code == 0 || !strings.Contains(strings.ReplaceAll(said, `\"`, `"`), u.says) {
			t.Errorf("%v: exit code %d, want an error with %q:\n%.600s", s, code, u.says, said)
		}
	}
}
