package tokensource

import (
	"maps"
	"strings"
	"testing"
)

// exposing is a client of a provider that exposes some of its answers.
func exposing(p *provider, paths map[string]string) Config {
	c := client(p)
	c.Response.Expose = paths
	return c
}

func TestWhatIsExposedIsTextThatCanStandInAHeaderField(t *testing.T) {
	t.Parallel()
	for answer, want := range map[string]string{
		`"https://acme.api.example.org"`:       "https://acme.api.example.org",
		`4711`:                                 "4711",
		`12345678901234567890`:                 "12345678901234567890",
		`"Zürich"`:                             "Zürich",
		`"` + strings.Repeat("a", 4<<10) + `"`: strings.Repeat("a", 4<<10),
		// And what is not:
		`"` + strings.Repeat("a", 4<<10+1) + `"`: "",
		`"a\r\nX-Injected: b"`:                   "",
		`"a\u0000b"`:                             "",
		`"a\u0085b"`:                             "",
		`"a\u202eb"`:                             "",
		`""`:                                     "",
		`" "`:                                    "",
		`null`:                                   "",
		`true`:                                   "",
		`["a"]`:                                  "",
		`{"a": "b"}`:                             "",
		// A token has no business there.
		`"at-1-of-the-provider"`:            "",
		`"Bearer at-1-of-the-provider"`:     "",
		`"x?t=YXQtMS1vZi10aGUtcHJvdmlkZXI"`: "",
		`"rt-1-of-the-provider"`:            "",
		`"client-secret-of-the-client"`:     "",
	} {
		p := newProvider(t, reply(200, `{"access_token": "at-1-of-the-provider", "refresh_token": "rt-1-of-the-provider", "data": {"list": [`+answer+`]}}`))
		c := exposing(p, map[string]string{"host": "data.list.0", "missing": "data.other"})
		c.ClientSecret = "client-secret-of-the-client"
		token, failure := ask(t, newSource(t, c), nil)
		got, there := must(t, token, failure).Exposed["host"]
		if got != want || there != (want != "") {
			t.Errorf("%.60s is exposed as %.60q, want %.60q", answer, got, want)
		}
		if _, there := token.Exposed["missing"]; there {
			t.Errorf("%.60s: what is missing is there", answer)
		}
	}
}

func TestAFormCanBeExposedAsWell(t *testing.T) {
	t.Parallel()
	p := newProvider(t, reply(200, `access_token=at-1&instance_url=https%3A%2F%2Facme.example.org`))
	token, failure := ask(t, newSource(t, exposing(p, map[string]string{"host": "instance_url"})), nil)
	if got := must(t, token, failure).Exposed["host"]; got != "https://acme.example.org" {
		t.Errorf("exposed is %q", got)
	}
}

func TestARefreshKeepsWhatItsAnswerDoesNotRepeat(t *testing.T) {
	t.Parallel()
	p := newProvider(t,
		reply(200, `{"access_token": "at-1", "refresh_token": "rt-1", "host": "one.example.org", "id": "7"}`),
		reply(200, `{"access_token": "at-2", "id": "8"}`),
		reply(200, `{"access_token": "at-3", "host": "three.example.org"}`),
		reply(200, `{"access_token": "at-4", "host": "four\r\n.example.org"}`),
	)
	s := newSource(t, exposing(p, map[string]string{"host": "host", "id": "id"}))
	var token *Token
	for i, want := range []map[string]string{
		{"host": "one.example.org", "id": "7"},
		{"host": "one.example.org", "id": "8"},
		{"host": "three.example.org", "id": "8"},
		{"host": "three.example.org", "id": "8"},
	} {
		next, failure := ask(t, s, token)
		token = must(t, next, failure)
		if !maps.Equal(token.Exposed, want) {
			t.Errorf("answer %d: exposed is %v, want %v", i+1, token.Exposed, want)
		}
	}
}

func TestWhatAnotherGrantHasSaidIsNotKept(t *testing.T) {
	t.Parallel()
	p := newProvider(t,
		reply(200, `{"access_token": "at-1", "host": "one.example.org"}`),
		reply(200, `{"access_token": "at-2"}`),
	)
	s := newSource(t, exposing(p, map[string]string{"host": "host"}))
	first, failure := ask(t, s, nil)
	second, failure2 := ask(t, s, must(t, first, failure))
	if got := must(t, second, failure2).Exposed; got != nil {
		t.Errorf("exposed is %v", got)
	}
}

func TestATokenGoesWithTheAnswerThatItsSourceWouldLookInto(t *testing.T) {
	t.Parallel()
	p := newProvider(t,
		reply(200, `{"access_token": "at-1", "refresh_token": "rt-1", "host": "one.example.org"}`),
		reply(200, `{"access_token": "at-2"}`),
	)
	before := map[string]string{"host": "host", "region": "region"}
	token, failure := ask(t, newSource(t, exposing(p, before)), nil)
	first := must(t, token, failure)
	text, err := first.Encode()
	if err != nil {
		t.Fatal(err)
	}
	stored, err := Decode(text)
	if err != nil {
		t.Fatal(err)
	}
	if stored.Exposed["host"] != "one.example.org" {
		t.Errorf("stored is %v", stored.Exposed)
	}
	consent := byConsent(p)
	for name, c := range map[string]struct {
		now  map[string]string
		want bool
	}{
		"the same, of which one is missing": {before, true},
		"one less":                          {map[string]string{"host": "host"}, true},
		"one more":                          {map[string]string{"host": "host", "region": "region", "id": "id"}, false},
		"another path":                      {map[string]string{"host": "api_host"}, false},
	} {
		if got := newSource(t, exposing(p, c.now)).Takes(stored); got != c.want {
			t.Errorf("%s: it is taken: %v, want %v", name, got, c.want)
		}
		consent.Response.Expose = c.now
		if got := newSource(t, consent).Takes(stored); got != c.want {
			t.Errorf("%s, by a person: it is taken: %v, want %v", name, got, c.want)
		}
	}
	// By another path it is another value, which is not kept.
	renewed, failure := ask(t, newSource(t, exposing(p, map[string]string{"host": "api_host", "region": "host"})), stored)
	if got := must(t, renewed, failure).Exposed; got != nil {
		t.Errorf("exposed is %v", got)
	}
}

func TestWhatTheStorageExposesMustBeFitAsWell(t *testing.T) {
	t.Parallel()
	token, err := Decode([]byte(`{"access_token":"a","issued":"2026-01-01T00:00:00Z","exposed":{"host":"a\r\nX: b","id":"7"}}`))
	if err != nil {
		t.Fatal(err)
	}
	if want := map[string]string{"id": "7"}; !maps.Equal(token.Exposed, want) {
		t.Errorf("exposed is %v, want %v", token.Exposed, want)
	}
}
