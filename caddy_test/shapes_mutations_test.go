package caddy_test

import (
	"fmt"
	"maps"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"
)

// mutation is something wrong in what a user writes: a property of the first
// request that the provider does not have, or a slip in a line.
type mutation struct {
	kind   string // what it is about
	of     *shape // the provider's
	writes *shape // what the user takes it for
	slip   *slip  // nil: there is none
}

// slip is a mistake that can be made with any provider: a line too much, or what
// stands in the place of a text. Of some shapes it would not be seen.
type slip struct {
	kind    string
	line    string
	replace map[string]string
	unseen  []exclusion
}

// inBodies are the shapes of which a body is written out, which names what stands in
// it.
var inBodies = []exclusion{
	{"encoding": "body-json body-xml body-form body-text"},
	{"renewal": "body"},
}

var slips = []slip{
	{"the address", "", map[string]string{"/token\n": "/tokens\n", "/token?": "/Token?"}, []exclusion{{"grant": "refresh_token", "renewal": "address link"}}},
	{"one parameter more", "param surplus 1", nil, inBodies},
	{"the client's secret", "", map[string]string{"dir}}/client-secret}": "dir}}/wrong}"}, nil},
	{"the client", "", map[string]string{"\tclient_id {env.SHAPE_CLIENT}": "\tclient_id {env.SHAPE_CLIENT}x"}, []exclusion{{"auth": "!basic raw", "params": "renamed"}}},
	{"the password", "", map[string]string{"dir}}/password}": "dir}}/wrong}"}, nil},
	{"the user", "", map[string]string{"username {env.SHAPE_USER}": "username {env.SHAPE_CLIENT}"}, []exclusion{{"params": "renamed"}}},
	{"the refresh token", "", map[string]string{"refresh_token {file.{{dir}}/seed-": "refresh_token x{file.{{dir}}/seed-"}, nil},
	{"the subject", "", map[string]string{"dir}}/subject}": "dir}}/wrong}"}, nil},
	{"the subject's type", "", map[string]string{"dir}}/subject} jwt": "dir}}/subject} id_token"}, nil},
	{"the signing key", "", map[string]string{"dir}}/private-p256}": "dir}}/private-other}"}, nil},
	{"the assertion", "", map[string]string{"dir}}/ready}": "dir}}/wrong}"}, nil},
	{"a claim", "", map[string]string{"claim role reader": "claim role writer", "claim sub robot": "claim sub Robot"}, nil},
	{"the key", "", map[string]string{"dir}}/key}": "dir}}/wrong}"}, nil},
	{"a parameter's name", "", map[string]string{
		"param login ": "param user ", "param tenant ": "param Tenant ", "param resource ": "param audience ",
		"param grantType ": "param kind ", "param_json device": "param_json Device",
	}, inBodies},
	{"a parameter's value", "", map[string]string{"söhne=1": "söhne=2", "grant-type:own": "grant-type:other", `"trusted\": true`: `"trusted\": "true"`, "//two.": "//three."}, nil},
	{"a field's name", "", map[string]string{"header X-Api-Key": "header X-Api_Key", "header x-stage first": "header x-stages first"}, nil},
	{"a field's value", "", map[string]string{`"ApiKey {`: `"Apikey {`, "stage first": "stage First", "vnd.example+json": "json"}, []exclusion{{"header": "other", "grant": "refresh_token"}}},
}

// mutations returns everything that can be done wrong with the first request to a
// provider, and that can be written.
func (s *shape) mutations() (all []mutation) {
	for _, p := range requestProperties {
		for _, c := range p.choices {
			other := s.with(s.name, p.name, c.name)
			if other.of[p.name] != s.of[p.name] && shapeSpace().allows(other.of) && s.seesAnother(other) {
				all = append(all, mutation{p.name + " " + c.name, s, other, nil})
			}
		}
	}
	for i, slip := range slips {
		m := mutation{slip.kind, s, s, &slips[i]}
		if seen := (&space{forbidden: slip.unseen}).allows(s.of); seen && m.source("") != s.source("") {
			all = append(all, m)
		}
	}
	return all
}

// seesAnother says whether the first request of another shape is not what a
// provider of this one wants.
func (s *shape) seesAnother(other *shape) bool {
	first := func(s *shape) *wanted {
		w := s.want(moment{"/x", s.of["grant"] == "refresh_token", "renew"})
		w.refresh = false
		if w.encoding == "query" { // as it is on the wire
			maps.Copy(w.query, w.params)
			w.params = nil
		}
		return w
	}
	return !reflect.DeepEqual(first(s), first(other))
}

// source is how the mistake is written.
func (m *mutation) source(provider string) string {
	if m.slip == nil {
		return m.writes.source(provider)
	}
	var further []string
	if m.slip.line != "" {
		further = []string{m.slip.line}
	}
	text := m.writes.source(provider, further...)
	for right, wrong := range m.slip.replace {
		text = strings.ReplaceAll(text, right, wrong)
	}
	return text
}

// mutants returns some mutations of each shape, under names of their own, so that
// every kind has its turn.
func mutants(shapes []*shape, each int) (all []mutation) {
	turns := make(map[string]int)
	for _, s := range shapes {
		candidates := s.mutations()
		slices.SortStableFunc(candidates, func(a, b mutation) int { return turns[a.kind] - turns[b.kind] })
		for i, m := range candidates[:min(each, len(candidates))] {
			turns[m.kind]++
			name := fmt.Sprintf("%s-%d", s.name, i+1)
			m.of, m.writes = s.with(name, "trigger", "refusal"), m.writes.with(name, "trigger", "refusal")
			all = append(all, m)
		}
	}
	return all
}

// TestAShapeIsRefusedToWhoTakesItForAnother makes three mistakes with each shape:
// its provider refuses them, and the caller hears so. No other test of shapes
// would mean much without that.
func TestAShapeIsRefusedToWhoTakesItForAnother(t *testing.T) {
	t.Parallel()
	const each = 3
	shapes := hundredShapes()
	all := mutants(shapes, each)
	if len(all) != each*len(shapes) {
		t.Errorf("%d mutations of %d shapes", len(all), len(shapes))
	}
	kinds := make(map[string]int)
	for _, m := range all {
		kinds[m.kind]++
	}
	t.Logf("%d mutations, of kinds %v", len(all), kinds)
	hundreds.Lock()
	defer hundreds.Unlock()
	for some := range slices.Chunk(all, 150) {
		t.Run("from "+some[0].of.name, func(t *testing.T) { refuseAll(t, some) })
	}
}

func refuseAll(t *testing.T, all []mutation) {
	var wrong []writtenShape
	var shapes []*shape
	kinds := make(map[string]string)
	for _, m := range all {
		wrong = append(wrong, writtenShape{m.of, m.source, m.writes.of["grant"] == "refresh_token"})
		shapes = append(shapes, m.of)
		kinds[m.of.name] = m.kind
	}
	r := startShapes(t, wrong, func(api string) string {
		return "inject_token {http.request.uri.path.0} " + api + " {\n\tsources s*\n}"
	})
	r.each(shapes, "mutations", func(s *shape) error {
		if err := r.refused(s); err != nil {
			return fmt.Errorf("%s: %w", kinds[s.name], err)
		}
		return nil
	})
}

// refused has a caller ask until the provider has refused the token request, and
// says whether the caller hears what it should.
func (r *shapesRun) refused(s *shape) error {
	no := refusals[s.of["refusal"]]
	for end := time.Now().Add(time.Minute); ; time.Sleep(50 * time.Millisecond) {
		resp, err := r.get(s)
		if err != nil {
			return err
		}
		x, status := r.look(s.name), resp.Header.Get("Proxy-Status")
		heard := resp.StatusCode == no.caller && strings.Contains(status, no.code) && len(x.faults) > 0
		switch {
		case len(x.issued) > 0 || len(x.refused) > 0 || x.last > 0:
			return fmt.Errorf("%d tokens were issued, and the API has seen requests", len(x.issued))
		case heard:
			return nil
		case time.Now().After(end):
			return fmt.Errorf("answered %d with Proxy-Status %q, want %d with %q", resp.StatusCode, status, no.caller, no.code)
		}
	}
}
