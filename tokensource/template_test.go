package tokensource

import (
	"encoding/json"
	"fmt"
	"maps"
	"regexp"
	"slices"
	"strings"
	"sync"
	"testing"
)

// vault holds the values of placeholders.
type vault struct {
	mu     sync.Mutex // guards values
	values map[string]string
}

// lookup knows env.* and file.*, as Caddy's does.
func (v *vault) lookup(name string) (string, bool) {
	v.mu.Lock()
	defer v.mu.Unlock()
	prefix, _, _ := strings.Cut(name, ".")
	return v.values[name], slices.Contains([]string{"env", "file"}, prefix)
}

func (v *vault) set(name, value string) {
	v.mu.Lock()
	defer v.mu.Unlock()
	v.values[name] = value
}

func newVault(pairs ...string) *vault {
	v := &vault{values: map[string]string{}}
	for i := 0; i < len(pairs); i += 2 {
		v.values[pairs[i]] = pairs[i+1]
	}
	return v
}

func TestPlaceholdersAreResolvedAtEachRequest(t *testing.T) {
	t.Parallel()
	p := newProvider(t, issue("at", ""))
	v := newVault("env.SECRET", "one", "file./run/s", "a")
	c := client(p)
	c.ClientAuth, c.ClientSecret, c.Lookup = "client_secret_post", "{env.SECRET}-{file./run/s}", v.lookup
	s := newSource(t, c)
	for _, value := range []string{"one", "two", "three"} {
		v.set("env.SECRET", value)
		token, failure := ask(t, s, nil)
		must(t, token, failure)
	}
	for i, want := range []string{"one-a", "two-a", "three-a"} {
		if got := p.arrived()[i].values(t).Get("client_secret"); got != want {
			t.Errorf("request %d: sent %q, want %q", i, got, want)
		}
	}
}

// everywhere writes a template into each option that takes one, as far as the
// options go together. The key is what an error calls the option.
func everywhere(p *provider, template string) map[string]Config {
	all := map[string]Config{}
	add := func(option string, change func(*Config)) {
		c := client(p)
		change(&c)
		all[option] = c
	}
	add("client_id", func(c *Config) { c.ClientID = template })
	add("client_secret", func(c *Config) { c.ClientSecret = template })
	add("username", func(c *Config) { login(c); c.Username = template })
	add("password", func(c *Config) { login(c); c.Password = template })
	add("refresh_token", func(c *Config) { c.Grant, c.RefreshToken = "refresh_token", template })
	add("scope", func(c *Config) { c.Scopes = []string{"read", template} })
	add("token_url", func(c *Config) { c.TokenURL = p.URL + "/" + template })
	add("param all", func(c *Config) { c.Params = []Param{param("all", template)} })
	add("param one", func(c *Config) { c.TokenRequest.Params = []Param{param("one", template)} })
	add("param json", func(c *Config) {
		text, _ := json.Marshal(map[string]any{"in": []string{template}})
		c.TokenRequest = Request{Encoding: "json", Params: []Param{{Name: "json", JSON: text}}}
	})
	add("header X-One", func(c *Config) { c.TokenRequest.Header = []Header{{"X-One", template}} })
	add("refresh_request url", func(c *Config) {
		c.Grant, c.RefreshToken, c.RefreshRequest = "refresh_token", "seed", &Request{URL: p.URL + "/" + template}
	})
	add("param again", func(c *Config) {
		c.Grant, c.RefreshToken, c.RefreshRequest = "refresh_token", "seed", &Request{Params: []Param{param("again", template)}}
	})
	add("header X-Again", func(c *Config) {
		c.Grant, c.RefreshToken, c.RefreshRequest = "refresh_token", "seed", &Request{Header: []Header{{"X-Again", template}}}
	})
	return all
}

func TestAnEmptyPlaceholderIsNamedWithItsOptionAndNothingIsSent(t *testing.T) {
	t.Parallel()
	p := newProvider(t, issue("at", ""))
	v := newVault("file.there", "canary-of-a-value")
	for option, c := range everywhere(p, "canary-of-a-text{file.there}{file./run/gone}") {
		c.Lookup = v.lookup
		token, failure := obtain(t, c, nil)
		e := mustFail(t, token, failure)
		if want := option + ": the placeholder {file./run/gone} is empty or cannot be read"; e.Error() != want {
			t.Errorf("%s: %q, want %q", option, e, want)
		}
		if !e.Permanent || e.StatusCode != 0 {
			t.Errorf("%s: %+v is not permanent", option, describe(e))
		}
		if e.Changed == nil || e.Changed() {
			t.Errorf("%s: it has changed already", option)
		}
		v.set("file./run/gone", "here")
		if !e.Changed() {
			t.Errorf("%s: a value that is there now is no change", option)
		}
		v.set("file./run/gone", "")
	}
	if got := p.arrived(); len(got) != 0 {
		t.Errorf("%d requests were sent", len(got))
	}
}

func TestBracesThatAreNoPlaceholderStandForThemselves(t *testing.T) {
	t.Parallel()
	lookup := newVault("env.X", "x").lookup
	for template, want := range map[string]string{
		"":                       "",
		"plain":                  "plain",
		"{env.X}":                "x",
		"a{env.X}b{env.X}":       "axbx",
		"{}{ }{1}{-}":            "{}{ }{1}{-}",
		"{unknown}":              "{unknown}",
		"{http.request.uri}":     "{http.request.uri}",
		"{refresh_token}":        "{refresh_token}",
		"{env.X":                 "{env.X",
		"env.X}":                 "env.X}",
		"{{env.X}}":              "{x}",
		`\{env.X}`:               "{env.X}",
		`a\{unknown}b`:           "a{unknown}b",
		`{env.X}\{env.X}{env.X}`: "x{env.X}x",
		`\\{env.X}`:              `\{env.X}`,
		`\`:                      `\`,
		`\{`:                     `{`,
		`\{1}\{env.X`:            `{1}{env.X`,
		`\x{env.X}`:              `\xx`,
		`{"env.X":1}`:            `{"env.X":1}`,
		"{env.\n}":               "{env.\n}",
		"ä{env.X}€":              "äx€",
		"{not a placeholder}":    "{not a placeholder}",
		"{ env.X}":               "{ env.X}",
	} {
		r := resolver{lookup: lookup}
		got, err := r.text("param", template)
		if err != nil || got != want {
			t.Errorf("%q: got %q, %v; want %q", template, got, err, want)
		}
		if r = (resolver{}); strings.Contains(template, `\`) {
			continue
		}
		if got, err := r.text("param", template); err != nil || got != template {
			t.Errorf("%q without a lookup: got %q, %v", template, got, err)
		}
	}
}

func TestPlaceholdersAreFoundByName(t *testing.T) {
	t.Parallel()
	for text, want := range map[string][]string{
		"":                            nil,
		"{env.A}x{file./b/c.d}":       {"env.A", "file./b/c.d"},
		`\{env.A}{env.B}`:             {"env.B"},
		"{}{1}{a":                     nil,
		"{refresh_token}{http.x.y}":   {"refresh_token", "http.x.y"},
		"{file.C:\\Program Files\\x}": {"file.C:\\Program Files\\x"},
	} {
		if got := Placeholders(text); !slices.Equal(got, want) {
			t.Errorf("%q: got %q, want %q", text, got, want)
		}
	}
}

func TestAPlaceholdersPathMayHoldABlank(t *testing.T) {
	t.Parallel()
	p := newProvider(t, issue("at", ""))
	c := client(p)
	c.ClientAuth, c.ClientSecret = "client_secret_post", `{file.C:\Program Files\crm\secret.txt}`
	c.Lookup = newVault(`file.C:\Program Files\crm\secret.txt`, "found").lookup
	token, failure := obtain(t, c, nil)
	must(t, token, failure)
	if got := p.only(t).values(t).Get("client_secret"); got != "found" {
		t.Errorf("sent %q", got)
	}
}

func TestAValueIsNotExpandedAgain(t *testing.T) {
	t.Parallel()
	const evil = `{env.OTHER}{refresh_token}\{env.OTHER}`
	p := newProvider(t, issue("at", ""))
	v := newVault("env.OTHER", "canary", "env.A", evil)
	for option, c := range everywhere(p, "{env.A}") {
		if strings.HasSuffix(option, "url") {
			continue // see TestARefreshTokenCannotChangeTheURL
		}
		c.Lookup = v.lookup
		before := len(p.arrived())
		token, failure := obtain(t, c, nil)
		must(t, token, failure)
		got := p.arrived()[before]
		if text := fmt.Sprintf("%+v", got); strings.Contains(text, "canary") {
			t.Errorf("%s: expanded twice: %s", option, text)
		}
	}
	// What a provider issues is not expanded either.
	c := client(p)
	c.Lookup = v.lookup
	c.RefreshRequest = &Request{Header: []Header{{"X", "{refresh_token}"}}, Params: []Param{param("a", "{refresh_token}"), param("b", "{env.A}")}}
	token, failure := obtain(t, c, withRefresh("{env.OTHER}"))
	must(t, token, failure)
	got := p.arrived()
	last := got[len(got)-1]
	if v := last.values(t); v.Get("a") != "{env.OTHER}" || v.Get("b") != evil || last.header.Get("X") != "{env.OTHER}" {
		t.Errorf("arrived %v, %v", v, last.header)
	}
}

func TestAValueCannotChangeTheStructureOfJSON(t *testing.T) {
	t.Parallel()
	for _, value := range []string{
		`"`, `\`, `","admin":true,"x":"`, `"}],"admin":true}`, "line\nbreak\ttab", "\u2028", `\u0022`, "</script>&", `{env.X}`, `null`, "ä€😀", `\{env.V}`,
	} {
		p := newProvider(t, issue("at", ""))
		c := client(p)
		c.Lookup = newVault("env.V", value).lookup
		c.TokenRequest = Request{Encoding: "json", Params: []Param{
			paramJSON("p", `{"a":["x{env.V}y",{"b":"{env.V}"}],"{env.V}":1,"n":7}`), param("text", "{env.V}"),
		}}
		token, failure := obtain(t, c, nil)
		must(t, token, failure)
		var got map[string]any
		if err := json.Unmarshal([]byte(p.only(t).body), &got); err != nil {
			t.Errorf("%q: %v in %s", value, err, p.only(t).body)
			continue
		}
		want := map[string]any{
			"grant_type": "client_credentials", "text": value,
			"p": map[string]any{"a": []any{"x" + value + "y", map[string]any{"b": value}}, "{env.V}": 1.0, "n": 7.0},
		}
		if fmt.Sprintf("%#v", got) != fmt.Sprintf("%#v", want) {
			t.Errorf("%q: got %#v, want %#v", value, got, want)
		}
	}
}

func TestJSONThatIsNoneIsAnError(t *testing.T) {
	t.Parallel()
	p := newProvider(t, issue("at", ""))
	for _, value := range []string{"", "{", "canary-canary", `{"a":1}{"canary":2}`, `"{env.X}`} {
		c := client(p)
		c.TokenRequest = Request{Encoding: "json", Params: []Param{paramJSON("p", value)}}
		token, failure := obtain(t, c, nil)
		if e := mustFail(t, token, failure); e.Error() != "param p: the value is not JSON" || !e.Permanent {
			t.Errorf("%q: got %v", value, e)
		}
	}
	if len(p.arrived()) != 0 {
		t.Error("a request was sent")
	}
}

func TestAHeaderValueThatCannotBeSentIsNamed(t *testing.T) {
	t.Parallel()
	p := newProvider(t, issue("at", ""))
	v := newVault("file.key", "canary-1\ncanary-2")
	c := client(p)
	c.Lookup = v.lookup
	c.TokenRequest.Header = []Header{{"X-Api-Key", "{file.key}"}}
	token, failure := obtain(t, c, nil)
	e := mustFail(t, token, failure)
	if e.Error() != "header X-Api-Key: the value holds control characters" || !e.Permanent {
		t.Errorf("got %v, permanent %v", e, e.Permanent)
	}
	if v.set("file.key", "good"); !e.Changed() {
		t.Error("a corrected value is no change")
	}
	if len(p.arrived()) != 0 {
		t.Error("a request was sent")
	}
}

func TestAnErrorSaysWhetherAnotherValueWouldBeSentNow(t *testing.T) {
	t.Parallel()
	p := newProvider(t, reply(401, `{"error":"invalid_client"}`))
	type test struct {
		name   string
		change func(*Config)
	}
	tests := []test{{"two placeholders in one JSON object", func(c *Config) {
		c.TokenRequest = Request{Encoding: "json", Params: []Param{
			paramJSON("p", `{"a":"{env.X}","b":"{env.B}","c":"{env.C}","d":{"e":"{env.D}","f":"{env.E}"}}`),
		}}
	}}}
	for option, written := range everywhere(p, "{env.X}") {
		tests = append(tests, test{option, func(c *Config) { *c = written }})
	}
	for _, test := range tests {
		v := newVault("env.X", "one", "env.B", "b", "env.C", "c", "env.D", "d", "env.E", "e", "env.UNUSED", "1")
		c := client(p)
		test.change(&c)
		c.Lookup = v.lookup
		token, failure := obtain(t, c, nil)
		e := mustFail(t, token, failure)
		for i := range 20 {
			v.set("env.UNUSED", fmt.Sprint(i))
			if e.Changed() {
				t.Fatalf("%s: nothing has changed that is sent", test.name)
			}
		}
		if v.set("env.X", "two"); !e.Changed() {
			t.Errorf("%s: another value is no change", test.name)
		}
		if v.set("env.X", ""); e.Changed() {
			t.Errorf("%s: a value that is gone would not be sent", test.name)
		}
		if v.set("env.X", "one"); e.Changed() {
			t.Errorf("%s: the old value is a change", test.name)
		}
	}
}

func TestSwappedValuesAreAChange(t *testing.T) {
	t.Parallel()
	p := newProvider(t, reply(401, `{"error":"invalid_client"}`))
	v := newVault("env.A", "x", "env.B", "yz")
	c := client(p)
	c.ClientID, c.ClientSecret, c.Lookup = "{env.A}", "{env.B}", v.lookup
	token, failure := obtain(t, c, nil)
	e := mustFail(t, token, failure)
	v.set("env.A", "xy")
	if v.set("env.B", "z"); !e.Changed() {
		t.Error("the same letters in other values are no change")
	}
	v.set("env.A", "yz")
	if v.set("env.B", "x"); !e.Changed() {
		t.Error("swapped values are no change")
	}
}

var brace = regexp.MustCompile(`[{}]`)

func FuzzTemplate(f *testing.F) {
	for _, seed := range []string{
		"", "plain", "{env.A}", `\{env.A}`, `\\{env.A}`, "{env.A}{env.B}", "{{env.A}}", "{env.A", "}{", "{env.GONE}", "{unknown}",
		`{"a":"{env.A}"}`, "{refresh_token}", "{file.C:\\a b}", "\x00{env.A}\xff", "{env.}", "ä{env.B}\u2028", `"{env.A}"`, `[1,"\{env.A}",null]`,
	} {
		f.Add(seed, "value")
		f.Add(seed, seed)
	}
	f.Fuzz(func(t *testing.T, template, value string) {
		values := map[string]string{"env.A": value, "env.B": "{env.C}\\{env.C}", "env.C": "CANARY"}
		lookup := func(name string) (string, bool) {
			v, known := values[name]
			return v, known || strings.HasPrefix(name, "env.")
		}
		r := resolver{lookup: lookup, refreshToken: value}
		got, err := r.text("option", template)
		again := resolver{lookup: lookup, refreshToken: value}
		if other, _ := again.text("option", template); other != got {
			t.Errorf("%q: %q, and then %q", template, got, other)
		}
		checkExpansion(t, template, value, got, err)

		names := Placeholders(template)
		if err != nil && (!strings.HasPrefix(err.Error(), "option: the placeholder {") || len(names) == 0) {
			t.Errorf("%q: %v", template, err)
		}
		if escaped, err := r.escaped("option", template, queryEscape); err == nil {
			// In a URL, the provider's own value has no power.
			harmless := resolver{lookup: lookup, refreshToken: "R"}
			plain, _ := harmless.text("option", template)
			if strings.Count(template, "{refresh_token}") == 1 && strings.Count(escaped, "?") != strings.Count(plain, "?") {
				t.Errorf("%q with %q: %q has another structure than %q", template, value, escaped, plain)
			}
		}
		out, err := r.json("option", json.RawMessage(template))
		if err != nil {
			return
		}
		if !json.Valid(out) || shape(t, out) != shape(t, []byte(template)) {
			t.Errorf("%q with %q became %s", template, value, out)
		}
	})
}

func checkExpansion(t *testing.T, template, value, got string, err error) {
	t.Helper()
	if !brace.MatchString(template) && (got != template || err != nil) {
		t.Errorf("%q without braces became %q, %v", template, got, err)
	}
	if !strings.Contains(template, "env.C") && !strings.Contains(template+value, "CANARY") && strings.Contains(got, "CANARY") {
		t.Errorf("%q with %q: expanded twice: %q", template, value, got)
	}
}

// shape writes a JSON value without its texts.
func shape(t *testing.T, text []byte) string {
	t.Helper()
	v, err := decodeJSON(text)
	if err != nil {
		t.Fatalf("%q: %v", text, err)
	}
	var walk func(any) string
	walk = func(v any) string {
		switch v := v.(type) {
		case string:
			return "s"
		case []any:
			var all []string
			for _, e := range v {
				all = append(all, walk(e))
			}
			return "[" + strings.Join(all, ",") + "]"
		case map[string]any:
			var all []string
			for _, name := range slices.Sorted(maps.Keys(v)) {
				all = append(all, fmt.Sprintf("%q:%s", name, walk(v[name])))
			}
			return "{" + strings.Join(all, ",") + "}"
		}
		return fmt.Sprint(v)
	}
	return walk(v)
}

func TestASecretIsSentAsItStandsButForItsPlaceholders(t *testing.T) {
	t.Parallel()
	v := newVault("env.X", "x")
	for template, want := range map[string]string{
		`pa\{ss}word`:  `pa\{ss}word`,
		`pa{ss}word`:   `pa{ss}word`,
		`\{`:           `\{`,
		`a{env.X}b`:    `axb`,
		`\{env.X}`:     `{env.X}`,
		`\{{env.X}}`:   `\{x}`,
		`\{env.X{1}}\`: `\{env.X{1}}\`,
	} {
		r := resolver{lookup: v.lookup}
		if got, err := r.secret("client_secret", template); err != nil || got != want {
			t.Errorf("%q: got %q, %v; want %q", template, got, err, want)
		}
	}
}
