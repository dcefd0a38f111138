package tokensource

import (
	"context"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"maps"
	"net/url"
	"slices"
	"strings"
	"testing"
	"time"
	"unicode"
)

const landing = "https://here.example.org/oauth/callback?tenant=a%2Fb"

// byConsent is a source that a person authorizes in a browser.
func byConsent(p *provider) Config {
	return Config{
		Grant: "authorization_code", AuthorizeURL: "https://auth.example.org/authorize", TokenURL: p.URL + "/token", RedirectURI: landing,
		ClientID: "crm app", ClientSecret: "canary-client-secret-of-32-bytes-and-more", Scopes: []string{"read", "write"}, UserAgent: agent,
	}
}

// authorize begins an authorization, which must succeed.
func authorize(t testing.TB, s *Source, state string) *Authorization {
	t.Helper()
	a, err := s.Authorize(context.Background(), state)
	if err != nil {
		t.Fatalf("not begun: %v", err)
	}
	return a
}

// failureOf fails the test where err is no *Error.
func failureOf(t testing.TB, err error) *Error {
	t.Helper()
	failure, ok := err.(*Error)
	if !ok || failure == nil {
		t.Fatalf("got %#v, want an *Error", err)
	}
	return failure
}

// exchanged sends a code, which must succeed.
func exchanged(t testing.TB, s *Source, a *Authorization, code string) *Token {
	t.Helper()
	token, err := s.Exchange(context.Background(), a, code)
	if err != nil {
		t.Fatalf("no token: %v", err)
	}
	return token
}

func TestTheAuthorizationURLHasWhatIsConfiguredAndNothingElse(t *testing.T) {
	t.Parallel()
	p := newProvider(t, issue("at", "rt"))
	standard := url.Values{
		"response_type": {"code"}, "client_id": {"crm app"}, "scope": {"read write"}, "redirect_uri": {landing}, "state": {"the-state"},
		"code_challenge": {"*"}, "code_challenge_method": {"S256"},
	}
	for name, c := range map[string]struct {
		change func(*Config)
		set    url.Values
		gone   []string
	}{
		"as it is":       {change: func(*Config) {}},
		"PKCE by name":   {change: func(c *Config) { c.PKCE = "S256" }},
		"PKCE off":       {change: func(c *Config) { c.PKCE = "off" }, gone: []string{"code_challenge", "code_challenge_method"}},
		"no scope":       {change: func(c *Config) { c.Scopes = nil }, gone: []string{"scope"}},
		"scopes, commas": {change: func(c *Config) { c.ScopeSeparator = "," }, set: url.Values{"scope": {"read,write"}}},
		"no redirect":    {change: func(c *Config) { c.RedirectURI = "" }, gone: []string{"redirect_uri", "state"}},
		"out of band": {change: func(c *Config) { c.RedirectURI = OutOfBand },
			set: url.Values{"redirect_uri": {OutOfBand}}, gone: []string{"state"}},
		"further parameters": {change: func(c *Config) {
			c.AuthorizeParams = []Param{param("prompt", "consent"), param("resource", "a&b=c"), param("resource", "ä +"), param("empty", "")}
		}, set: url.Values{"prompt": {"consent"}, "resource": {"a&b=c", "ä +"}, "empty": {""}}},
		"a parameter in the place of a standard one": {change: func(c *Config) {
			c.AuthorizeParams = []Param{param("response_type", "code id_token"), param("scope", "all")}
		}, set: url.Values{"response_type": {"code id_token"}, "scope": {"all"}}},
		"parameters of token requests stay there": {change: func(c *Config) {
			c.Params = []Param{param("audience", "x")}
			c.TokenRequest.Params = []Param{param("tenant", "x")}
		}},
		"a query of its own": {change: func(c *Config) { c.AuthorizeURL += "?tenant=7&x=%2F" }, set: url.Values{"tenant": {"7"}, "x": {"/"}}},
		"placeholders": {change: func(c *Config) {
			c.Lookup = newVault("env.id", "crm app", "env.host", "auth.example.org", "env.to", landing, "env.p", "consent", "env.s", "write").lookup
			c.AuthorizeURL, c.ClientID, c.RedirectURI = "https://{env.host}/authorize", "{env.id}", "{env.to}"
			c.AuthorizeParams, c.Scopes = []Param{param("prompt", "{env.p}")}, []string{"read", "{env.s}"}
		}, set: url.Values{"prompt": {"consent"}}},
	} {
		config := byConsent(p)
		c.change(&config)
		a := authorize(t, newSource(t, config), "the-state")
		u, err := url.Parse(a.URL)
		if err != nil {
			t.Fatal(err)
		}
		got, err := url.ParseQuery(u.RawQuery)
		if err != nil {
			t.Errorf("%s: %v", name, err)
		}
		if u.Scheme+"://"+u.Host+u.Path != "https://auth.example.org/authorize" || u.Fragment != "" || strings.Contains(u.RawQuery, "+") {
			t.Errorf("%s: it is %s", name, a.URL)
		}
		want := maps.Clone(standard)
		maps.Copy(want, c.set)
		maps.DeleteFunc(want, func(name string, _ []string) bool { return slices.Contains(c.gone, name) })
		if want.Has("code_challenge") {
			want.Set("code_challenge", challengeOf(a.Verifier))
		}
		if !maps.EqualFunc(got, want, slices.Equal) {
			t.Errorf("%s:\n got %v\nwant %v", name, got, want)
		}
		if (a.Verifier != "") != want.Has("code_challenge") || a.State != want.Get("state") || a.RedirectURI != want.Get("redirect_uri") || a.Issuer != "" {
			t.Errorf("%s: %+v", name, a)
		}
	}
	if n := len(p.arrived()); n != 0 {
		t.Errorf("%d requests were sent", n)
	}
}

// challengeOf is RFC 7636, section 4.2's.
func challengeOf(verifier string) string {
	sum := sha256.Sum256([]byte(verifier))
	return base64.RawURLEncoding.EncodeToString(sum[:])
}

func TestTheVerifierIsNewEachTimeAndNotInTheURL(t *testing.T) {
	t.Parallel()
	p := newProvider(t, issue("at", "rt"))
	s := newSource(t, byConsent(p))
	first, second := authorize(t, s, "1"), authorize(t, s, "2")
	if first.Verifier == second.Verifier || len(first.Verifier) < 43 || len(first.Verifier) > 128 {
		t.Errorf("%q, %q", first.Verifier, second.Verifier)
	}
	if strings.Contains(first.URL, first.Verifier) {
		t.Error("it is in the URL")
	}
}

func TestAnAuthorizationThatCannotBeBegunSaysWhy(t *testing.T) {
	t.Parallel()
	p := newProvider(t, issue("at", "rt"))
	for name, c := range map[string]struct {
		change func(*Config)
		want   string
	}{
		"a missing secret": {func(c *Config) { c.ClientSecret, c.Lookup = "{file./canary}", newVault().lookup },
			"client_secret: the placeholder {file./canary} is empty or cannot be read"},
		"no URL": {func(c *Config) { c.AuthorizeURL, c.Lookup = "{env.x}", newVault("env.x", "canary").lookup }, "authorize_url: a whole URL is needed"},
		"plain http": {func(c *Config) {
			c.AuthorizeURL, c.Lookup = "{env.x}", newVault("env.x", "http://canary.example.org/").lookup
		},
			"authorize_url: "},
		"another program's": {func(c *Config) { c.AuthorizeURL, c.Lookup = "{env.x}", newVault("env.x", "javascript:canary").lookup },
			"authorize_url: "},
	} {
		config := byConsent(p)
		c.change(&config)
		a, err := newSource(t, config).Authorize(context.Background(), "canary")
		if a != nil {
			t.Errorf("%s: it is begun: %+v", name, a)
			continue
		}
		if e := failureOf(t, err); !strings.HasPrefix(e.Reason, c.want) || strings.Contains(strings.ReplaceAll(everyText(e), "{file./canary}", ""), "canary") {
			t.Errorf("%s: %v", name, e)
		}
	}
}

func TestAnAuthorizationThatWasWrittenDownIsTheSame(t *testing.T) {
	t.Parallel()
	p := newProvider(t, issue("at", "rt"))
	a := authorize(t, newSource(t, byConsent(p)), "state")
	a.Issuer, a.IssuerRequired = "https://auth.example.org", true
	text, err := json.Marshal(a)
	if err != nil {
		t.Fatal(err)
	}
	var again Authorization
	if err := json.Unmarshal(text, &again); err != nil || again != *a {
		t.Errorf("%v: it was %+v and is %+v", err, *a, again)
	}
}

func TestACodeIsSentOnceWithEverythingToTheByte(t *testing.T) {
	t.Parallel()
	const code = "4/0AX+b=%2F&ä c"
	for name, c := range map[string]struct {
		change func(*Config)
		gone   []string
	}{
		"as it is":    {change: func(*Config) {}},
		"PKCE off":    {change: func(c *Config) { c.PKCE = "off" }, gone: []string{"code_verifier"}},
		"no redirect": {change: func(c *Config) { c.RedirectURI = "" }, gone: []string{"redirect_uri"}},
		"out of band": {change: func(c *Config) { c.RedirectURI = OutOfBand }},
	} {
		p := newProvider(t, issue("at", "rt"))
		config := byConsent(p)
		c.change(&config)
		s := newSource(t, config)
		a := authorize(t, s, "the-state")
		token := exchanged(t, s, a, code)
		if token.AccessToken != "at" || token.RefreshToken != "rt" || token.Lifetime != time.Hour || !slices.Equal(token.Scopes, []string{"read", "write"}) {
			t.Errorf("%s: %+v", name, token)
		}
		want := url.Values{"grant_type": {"authorization_code"}, "code": {code}, "redirect_uri": {config.RedirectURI}, "code_verifier": {a.Verifier}}
		maps.DeleteFunc(want, func(name string, _ []string) bool { return slices.Contains(c.gone, name) })
		r := p.only(t)
		if got := r.values(t); !maps.EqualFunc(got, want, slices.Equal) || strings.Contains(r.target, "?") {
			t.Errorf("%s: %s\n got %v\nwant %v", name, r.target, got, want)
		}
		if id, secret := basicOf(t, r); id != "crm+app" || secret != "canary-client-secret-of-32-bytes-and-more" {
			t.Errorf("%s: it is %s's", name, id)
		}
	}
}

func TestTheRedirectURIOfTheExchangeIsThatOfItsAuthorization(t *testing.T) {
	t.Parallel()
	p := newProvider(t, issue("at", "rt"))
	v := newVault("env.to", "https://one.example.org/")
	c := byConsent(p)
	c.RedirectURI, c.Lookup = "{env.to}", v.lookup
	s := newSource(t, c)
	a := authorize(t, s, "state")
	v.set("env.to", "https://two.example.org/")
	exchanged(t, s, a, "code")
	if got := p.only(t).values(t).Get("redirect_uri"); got != "https://one.example.org/" {
		t.Errorf("it was %s", got)
	}
}

func TestAnExchangeProvesTheClientAsConfigured(t *testing.T) {
	t.Parallel()
	for _, auth := range ClientAuthNames() {
		p := newProvider(t, issue("at", "rt"))
		c := byConsent(p)
		c.ClientAuth, c.PrivateKey = auth, pemKey(t, "P-256")
		if auth == "none" {
			c.ClientSecret = ""
		}
		s := newSource(t, c)
		exchanged(t, s, authorize(t, s, "state"), "code")
		r := p.only(t)
		_, query, _ := strings.Cut(r.target, "?")
		inQuery, _ := url.ParseQuery(query)
		places := map[string]string{
			"client_secret_post": r.inBody(t).Get("client_secret"), "client_secret_query": inQuery.Get("client_secret"),
		}
		if _, secret, ok := basic(r); ok {
			places["client_secret_basic"] = secret
		}
		for place, secret := range places {
			if want := place == auth; (secret == c.ClientSecret && secret != "") != want {
				t.Errorf("%s: as %s there is %q", auth, place, secret)
			}
		}
		if id := r.inBody(t).Get("client_id") + inQuery.Get("client_id"); (auth == "client_secret_basic") != (id == "") {
			t.Errorf("%s: the client is %q", auth, id)
		}
	}
}

func basic(r recorded) (id, secret string, ok bool) {
	text, found := strings.CutPrefix(r.header.Get("Authorization"), "Basic ")
	plain, err := base64.StdEncoding.DecodeString(text)
	id, secret, _ = strings.Cut(string(plain), ":")
	return id, secret, found && err == nil
}

func TestTheScopesOfATokenAreThoseThatWereGranted(t *testing.T) {
	t.Parallel()
	for answer, want := range map[string][]string{
		`{"access_token":"at"}`:                                            {"read", "write"},
		`{"access_token":"at","scope":null}`:                               {"read", "write"},
		`{"access_token":"at","scope":"a  b"}`:                             {"a", "b"},
		`{"access_token":"at","scope":"a,b, c"}`:                           {"a", "b", "c"},
		`{"access_token":"at","scope":["a","b c"]}`:                        {"a", "b c"},
		`{"access_token":"at","scope":"read(all) write(a,b)"}`:             {"read(all)", "write(a,b)"},
		`{"access_token":"at","scope":"a\u0000 b\n\u0007"}`:                {"a", "b"},
		`{"access_token":"at","scope":"` + strings.Repeat("x", 201) + `"}`: {},
		`{"access_token":"at","scope":7}`:                                  {"read", "write"},
	} {
		p := newProvider(t, reply(200, answer))
		s := newSource(t, byConsent(p))
		if got := exchanged(t, s, authorize(t, s, "state"), "code").Scopes; !slices.Equal(got, want) {
			t.Errorf("%s: %q, want %q", answer, got, want)
		}
	}
	p := newProvider(t, reply(200, `{"access_token":"at","scope":"`+strings.Repeat("s ", 10000)+`"}`))
	s := newSource(t, byConsent(p))
	if got := exchanged(t, s, authorize(t, s, "state"), "code").Scopes; len(got) != mostScopes {
		t.Errorf("%d scopes are remembered", len(got))
	}
}

func TestARefreshKeepsTheScopesUnlessTheProviderSaysOtherwise(t *testing.T) {
	t.Parallel()
	p := newProvider(t, reply(200, `{"access_token":"at-1","refresh_token":"rt-1","scope":"read"}`), issue("at-2", "rt-2"),
		reply(200, `{"access_token":"at-3","scope":"less"}`))
	s := newSource(t, byConsent(p))
	token := exchanged(t, s, authorize(t, s, "state"), "code")
	for _, want := range []string{"read", "less"} {
		next, failure := ask(t, s, token)
		token = must(t, next, failure)
		if !slices.Equal(token.Scopes, []string{want}) {
			t.Errorf("%q, want %q", token.Scopes, want)
		}
	}
	if sent := p.arrived()[1].values(t); sent.Has("scope") || sent.Has("code") || sent.Has("redirect_uri") || sent.Has("code_verifier") {
		t.Errorf("the refresh sends %v", sent)
	}
}

func TestARefusedCodeSaysThatItIsNoGood(t *testing.T) {
	t.Parallel()
	for answer, required := range map[string]bool{
		object("error", "invalid_grant"): true, object("error", "invalid_client"): false, object("error", "temporarily_unavailable"): false,
	} {
		p := newProvider(t, reply(400, answer))
		s := newSource(t, byConsent(p))
		token, err := s.Exchange(context.Background(), authorize(t, s, "state"), "code")
		if e := failureOf(t, err); token != nil || e.AuthorizationRequired != required {
			t.Errorf("%s: %v, %v", answer, token, e.AuthorizationRequired)
		}
		if n := len(p.arrived()); n != 1 {
			t.Errorf("%s: the code was sent %d times", answer, n)
		}
	}
}

func TestWhatAPersonPastesIsUnderstood(t *testing.T) {
	t.Parallel()
	whole := Callback{Code: "c/1", State: "s 2", Whole: true}
	bare := func(code string) Callback { return Callback{Code: code} }
	for pasted, want := range map[string]Callback{
		" \t4/0AX-b_c~.\r\n":   bare("4/0AX-b_c~."),
		"1234-5678":            bare("1234-5678"),
		"a=b==":                bare("a=b=="),
		"encode=x":             bare("encode=x"),
		"a b":                  bare("a b"),
		"a%2Fb":                bare("a%2Fb"),
		"ä:ö":                  bare("ä:ö"),
		"":                     {},
		" \n":                  {},
		"?":                    bare("?"),
		"https://x.example/":   bare("https://x.example/"),
		"https://x.example/?a": bare("https://x.example/?a"),
		"%zz":                  bare("%zz"),

		"https://here.example.org/cb?code=c%2F1&state=s+2":               whole,
		"http://localhost:8080/cb?state=s%202&code=c/1":                  whole,
		"  https://here.example.org/cb?x=y&code=c%2F1&state=s+2 \n":      whole,
		"https://here.example.org/cb?code=c%2F1&state=s+2#_=_":           whole,
		"https://here.example.org/cb#code=c%2F1&state=s+2":               whole,
		"https://here.example.org/cb?tenant=a#code=c%2F1&state=s%202":    whole,
		"com.example.app:/cb?code=c%2F1&state=s+2":                       whole,
		"code=c%2F1&state=s+2":                                           whole,
		"?code=c%2F1&state=s+2":                                          whole,
		"state=s+2&code=c%2F1":                                           whole,
		"https://here.example.org/cb?code=c&state=s&iss=https%3A%2F%2Fi": {Code: "c", State: "s", Issuer: "https://i", Whole: true},
		"https://here.example.org/cb?error=access_denied&error_description=no%21&state=s": {
			Error: "access_denied", ErrorDescription: "no!", State: "s", Whole: true},
		"code=a&code=b&state=s":  {Code: "a", State: "s", Whole: true, Twice: true},
		"code=a&state=s&state=t": {Code: "a", State: "s", Whole: true, Twice: true},
		"code=a&code=a&state=s":  {Code: "a", State: "s", Whole: true, Twice: true},
		"error=x&error=y":        {Error: "x", Whole: true, Twice: true},
		"code=":                  {Whole: true},
	} {
		s := newSource(t, Config{Grant: "authorization_code", ClientID: "c", TokenURL: "https://auth.example.org/token"})
		if got := s.Read(pasted); got != want {
			t.Errorf("%q:\n got %+v\nwant %+v", pasted, got, want)
		}
	}
}

func TestTheCodeOfAQRCodesTextIsItsField(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		field             int
		separator, pasted string
		want              Callback
	}{
		{2, ";", "login;4711;x", Callback{Code: "4711"}},
		{1, ";", " 4711 ;x", Callback{Code: "4711"}},
		{3, "|", "a|b| 4711 \n", Callback{Code: "4711"}},
		{2, "::", "a::4711::b", Callback{Code: "4711"}},
		{2, ";", "4711", Callback{Code: "4711"}}, // typed, without the rest
		{4, ";", "a;b", Callback{}},              // only a part of it
		{2, ";", "a;;b", Callback{}},
		{2, ";", "", Callback{}},
		{2, "=", "a=4711", Callback{Code: "4711"}},
		{2, ";", "https://here.example.org/cb?code=c&state=s", Callback{Code: "c", State: "s", Whole: true}},
		{2, "/", "https://here.example.org/cb?code=c&state=s", Callback{Code: "c", State: "s", Whole: true}},
	} {
		s := newSource(t, Config{Grant: "authorization_code", ClientID: "c", TokenURL: "https://auth.example.org/token", CodeField: c.field, CodeSeparator: c.separator})
		if got := s.Read(c.pasted); got != c.want {
			t.Errorf("%d of %q in %q: %+v, want %+v", c.field, c.separator, c.pasted, got, c.want)
		}
	}
	for _, c := range []struct {
		field     int
		separator string
		good      bool
	}{{1, ";", true}, {99, " ", true}, {0, ";", false}, {-1, ";", false}, {100, ";", false}, {1, "", false}} {
		if err := CheckCodeField(c.field, c.separator); (err == nil) != c.good {
			t.Errorf("%d %q: %v", c.field, c.separator, err)
		}
	}
}

func FuzzRead(f *testing.F) {
	for _, text := range []string{
		"code", "", "?code=a&state=b", "https://h/cb?code=a&state=b#x", "https://h/cb#code=a", "a;b;c", "code=a&code=b", "error=x&error_description=%zz",
		"%", ";", "code=%00", "x:code=1", "x:?code=1",
	} {
		f.Add(text, 2, ";")
	}
	f.Fuzz(func(t *testing.T, pasted string, field int, separator string) {
		c := Config{Grant: "authorization_code", ClientID: "c", TokenURL: "https://auth.example.org/token"}
		if CheckCodeField(field, separator) == nil {
			c.CodeField, c.CodeSeparator = field, separator
		}
		s := newSource(t, c)
		got := s.Read(pasted)
		if !got.Whole && (got.State != "" || got.Issuer != "" || got.Error != "" || got.ErrorDescription != "") {
			t.Errorf("no whole answer, and %+v", got)
		}
		if !got.Whole && (got.Code != strings.TrimSpace(got.Code) || !strings.Contains(pasted, got.Code)) {
			t.Errorf("the code %q is not of this text", got.Code)
		}
		if c.CodeField == 0 && !got.Whole && got.Code != strings.TrimSpace(pasted) {
			t.Errorf("of the code %q remained", got.Code)
		}
		if again := s.Read(" " + pasted + "\n"); again != got {
			t.Errorf("with blanks around it is %+v, and not %+v", again, got)
		}
		a := &Authorization{State: "the-state-that-was-sent", Verifier: "the-verifier-that-was-made"}
		err := a.Check(got)
		if err == nil && (got.Code == "" || got.Error != "" || got.Whole && got.State != a.State || strings.ContainsFunc(got.Code, isControl)) {
			t.Errorf("this is taken: %+v", got)
		}
		if err != nil {
			e := failureOf(t, err)
			if e.Reason == "" && e.Code == "" {
				t.Errorf("an error that says nothing: %+v", e)
			}
			for _, text := range []string{e.Code, e.Description, e.Reason} {
				if len(text) > maxDescription || strings.ContainsFunc(text, unicode.IsControl) {
					t.Errorf("text %q", text)
				}
			}
		}
	})
}

func TestAnAnswerIsTakenOnlyWhereItIsThatToThisAuthorization(t *testing.T) {
	t.Parallel()
	const issuer = "https://auth.example.org/realms/a"
	plain := Authorization{State: "s"}
	known := Authorization{State: "s", Issuer: issuer}
	announced := Authorization{State: "s", Issuer: issuer, IssuerRequired: true}
	byHand := Authorization{Issuer: issuer, IssuerRequired: true}
	const other, strange, silent = "another authorization", "another issuer", "does not say which issuer"
	for name, c := range map[string]struct {
		a      Authorization
		answer Callback
		want   string // in the error
	}{
		"all is well":                         {plain, Callback{Code: "c", State: "s", Whole: true}, ""},
		"another state":                       {plain, Callback{Code: "c", State: "t", Whole: true}, other},
		"no state":                            {plain, Callback{Code: "c", Whole: true}, other},
		"a longer state":                      {plain, Callback{Code: "c", State: "ss", Whole: true}, other},
		"a state in another case":             {plain, Callback{Code: "c", State: "S", Whole: true}, other},
		"an error of another state":           {plain, Callback{Error: "access_denied", State: "t", Whole: true}, other},
		"a state where none was sent":         {Authorization{}, Callback{Code: "c", State: "t", Whole: true}, other},
		"a bare code":                         {plain, Callback{Code: "c"}, ""},
		"a bare code, where iss is wanted":    {announced, Callback{Code: "c"}, ""},
		"a bare code without a redirect":      {byHand, Callback{Code: "c"}, ""},
		"iss, of which nothing is known":      {plain, Callback{Code: "c", State: "s", Issuer: "https://evil.example", Whole: true}, ""},
		"iss, known":                          {known, Callback{Code: "c", State: "s", Issuer: issuer, Whole: true}, ""},
		"iss, announced":                      {announced, Callback{Code: "c", State: "s", Issuer: issuer, Whole: true}, ""},
		"no iss, not announced":               {known, Callback{Code: "c", State: "s", Whole: true}, ""},
		"no iss, announced":                   {announced, Callback{Code: "c", State: "s", Whole: true}, silent},
		"another iss":                         {known, Callback{Code: "c", State: "s", Issuer: "https://evil.example", Whole: true}, strange},
		"another iss, announced":              {announced, Callback{Code: "c", State: "s", Issuer: "https://evil.example", Whole: true}, strange},
		"iss with a slash":                    {known, Callback{Code: "c", State: "s", Issuer: issuer + "/", Whole: true}, strange},
		"an error without iss":                {announced, Callback{Error: "access_denied", State: "s", Whole: true}, silent},
		"no code":                             {plain, Callback{State: "s", Whole: true}, "no code"},
		"nothing":                             {plain, Callback{}, "no code"},
		"a parameter that stands there twice": {plain, Callback{Code: "c", State: "s", Whole: true, Twice: true}, "twice"},
		"a code with a line break":            {plain, Callback{Code: "a\nb"}, "this is no code"},
		"a code with a zero":                  {plain, Callback{Code: "a\x00b", State: "s", Whole: true}, "this is no code"},
		"a code with a DEL":                   {plain, Callback{Code: "a\x7fb"}, "this is no code"},
		"a code that is far too long":         {plain, Callback{Code: strings.Repeat("x", maxPasted+1)}, "this is no code"},
		"a code that is very long":            {plain, Callback{Code: strings.Repeat("x", maxPasted)}, ""},
		"the provider's no":                   {plain, Callback{Error: "access_denied", ErrorDescription: "not you", State: "s", Whole: true}, "access_denied: not you"},
		"a no beside a code":                  {plain, Callback{Error: "access_denied", Code: "c", State: "s", Whole: true}, "access_denied"},
		"a sentence as error":                 {plain, Callback{Error: "nö, nicht so", State: "s", Whole: true}, "the provider did not grant it: nö, nicht so"},
		"an error with control characters":    {plain, Callback{Error: "a\x1b[31mb", State: "s", Whole: true}, "the provider did not grant it: a [31mb"},
		"a description with line breaks":      {plain, Callback{Error: "x", ErrorDescription: "a\r\nb\u202ec", State: "s", Whole: true}, "x: a  b c"},
		"an error that is far too long":       {plain, Callback{Error: strings.Repeat("e ", 5000), State: "s", Whole: true}, "the provider did not grant it"},
		"an error that is a letter too long":  {plain, Callback{Error: strings.Repeat("e", maxCode+1), State: "s", Whole: true}, "the provider did not grant it"},
	} {
		err := c.a.Check(c.answer)
		if c.want == "" {
			if err != nil {
				t.Errorf("%s: %v", name, err)
			}
			continue
		}
		if err == nil {
			t.Errorf("%s: it is taken", name)
			continue
		}
		if e := failureOf(t, err); !strings.Contains(e.Error(), c.want) || len(e.Error()) > 2*maxDescription {
			t.Errorf("%s: %q, want %q", name, e.Error(), c.want)
		}
	}
}

func TestWhatWasAuthorizedIsRefreshedAndWithoutARefreshTokenNobodyIsAsked(t *testing.T) {
	t.Parallel()
	p := newProvider(t, issue("at-2", "rt-2"), reply(200, `{"access_token":"at-3"}`))
	s := newSource(t, byConsent(p))
	for _, previous := range []*Token{nil, {}, {AccessToken: "at"}, withRefresh("rt").WithoutRefreshToken()} {
		token, failure := ask(t, s, previous)
		if e := mustFail(t, token, failure); e.Code != "authorization_required" || !e.AuthorizationRequired || !e.Permanent || e.StatusCode != 0 {
			t.Errorf("%+v", e)
		}
	}
	if n := len(p.arrived()); n != 0 {
		t.Errorf("%d requests were sent", n)
	}
	first, failure := ask(t, s, withRefresh("rt-1"))
	must(t, first, failure)
	second, failure := ask(t, s, first)
	if got := must(t, second, failure); got.RefreshToken != "rt-2" { // RFC 6749, section 6: it stays
		t.Errorf("%+v", got)
	}
	if got, want := p.refreshTokens(t), []string{"rt-1", "rt-2"}; !slices.Equal(got, want) {
		t.Errorf("sent %q, want %q", got, want)
	}
}

func TestARefusedRefreshTokenOfAPersonsGrantNeedsThePersonAndAPassingTroubleDoesNot(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		status   int
		body     string
		required bool
		forever  bool
	}{
		"withdrawn":                    {400, object("error", "invalid_grant"), true, true},
		"withdrawn, with 401":          {401, object("error", "invalid_grant"), true, true},
		"the client is wrong":          {401, object("error", "invalid_client"), false, true},
		"down":                         {503, "", false, false},
		"a gateway says invalid_grant": {503, object("error", "invalid_grant"), false, false},
		"too many":                     {429, object("error", "invalid_grant"), false, false},
		"no token":                     {200, "{}", false, false},
	} {
		for _, grant := range []string{"authorization_code", "device_code"} {
			p := newProvider(t, reply(c.status, c.body))
			config := byConsent(p)
			config.Grant = grant
			token, failure := obtain(t, config, withRefresh("canary-refresh-token"))
			e := mustFail(t, token, failure)
			if e.AuthorizationRequired != c.required || e.Permanent != c.forever {
				t.Errorf("%s, %s: a person is needed: %v, permanent: %v", grant, name, e.AuthorizationRequired, e.Permanent)
			}
			if got := p.grantTypes(t); !slices.Equal(got, []string{"refresh_token"}) {
				t.Errorf("%s, %s: sent %q", grant, name, got)
			}
		}
	}
}

func TestWhatAPersonHasAuthorizedBelongsToTheClientWhateverElseIsAsked(t *testing.T) {
	t.Parallel()
	for _, grant := range []string{"authorization_code", "device_code"} {
		of := func(change func(*Config)) *Source {
			c := Config{
				Grant: grant, TokenURL: "https://auth.example.org/token", ClientID: "crm", ClientSecret: "s", Scopes: []string{"read"},
				AuthorizeURL: "https://auth.example.org/authorize", RedirectURI: landing,
			}
			change(&c)
			return newSource(t, c)
		}
		id := func(s *Source) string {
			t.Helper()
			id, err := s.Identity()
			if err != nil {
				t.Fatal(err)
			}
			return id
		}
		same := id(of(func(*Config) {}))
		for name, change := range map[string]func(*Config){
			"another scope":        func(c *Config) { c.Scopes = []string{"write"} },
			"another secret":       func(c *Config) { c.ClientSecret = "t" },
			"another landing page": func(c *Config) { c.RedirectURI = "" },
			"another page":         func(c *Config) { c.AuthorizeURL = "https://auth.example.org/v2/authorize" },
			"a parameter":          func(c *Config) { c.Params = []Param{param("tenant", "a")} },
			"another answer":       func(c *Config) { c.DefaultLifetime = time.Hour },
			"PKCE off":             func(c *Config) { c.PKCE = "off" },
		} {
			s := of(change)
			if id(s) != same {
				t.Errorf("%s, %s: it is another's", grant, name)
			}
			if !s.Takes(&Token{AccessToken: "at", asked: "something else"}) {
				t.Errorf("%s, %s: it is not taken any more", grant, name)
			}
		}
		for name, change := range map[string]func(*Config){
			"another client":   func(c *Config) { c.ClientID = "billing" },
			"another provider": func(c *Config) { c.TokenURL = "https://auth.example.net/token" },
			"an issuer":        func(c *Config) { c.TokenURL, c.Issuer = "", "https://auth.example.org" },
		} {
			if id(of(change)) == same {
				t.Errorf("%s, %s: it is taken for the same", grant, name)
			}
		}
	}
}

// TestNoSecretOfAnAuthorizationIsEverPartOfAnError has a provider echo all that it
// was sent, in all the ways.
func TestNoSecretOfAnAuthorizationIsEverPartOfAnError(t *testing.T) {
	t.Parallel()
	const code, state, device = "4/canary+code&of=7731", "canary-state-7732", "canary-device-code-7733"
	for how, echo := range echoes {
		p := newProvider(t, reply(500, ""))
		tell := func(secret string) {
			p.mu.Lock()
			defer p.mu.Unlock()
			p.replies = append(p.replies[:0], echo(secret))
		}
		s := newSource(t, byConsent(p))
		a := authorize(t, s, state)
		for what, secret := range map[string]string{"code": code, "state": state, "verifier": a.Verifier, "client secret": "canary-client-secret-of-32-bytes-and-more"} {
			tell(secret)
			_, err := s.Exchange(context.Background(), a, code)
			wantSilent(t, how+" of the "+what, err, secret)
		}
		c := byConsent(p)
		c.Grant, c.DeviceURL = "device_code", p.URL+"/device"
		d := newSource(t, c)
		tell(device)
		_, err := d.ExchangeDevice(context.Background(), &DeviceAuthorization{DeviceCode: device})
		wantSilent(t, how+" of the device code", err, device)
		tell("canary-client-secret-of-32-bytes-and-more")
		_, err = d.AuthorizeDevice(context.Background())
		wantSilent(t, how+" of the client secret", err, "canary-client-secret-of-32-bytes-and-more")
		for _, secret := range []string{"canary-access-token", "canary-refresh-token"} {
			tell(secret)
			c.RevokeURL = p.URL + "/revoke"
			_, err = newSource(t, c).Revoke(context.Background(), &Token{AccessToken: "canary-access-token", RefreshToken: "canary-refresh-token"})
			if err != nil { // with some, the answer is a success
				wantSilent(t, how+" of a revoked token", err, secret)
			}
		}
	}
	a := &Authorization{State: state, Verifier: "canary-verifier-of-forty-three-characters-77"}
	for _, secret := range []string{a.State, a.Verifier, url.QueryEscape(a.State)} {
		for _, answer := range []Callback{
			{Error: "x_" + secret, State: state, Whole: true}, {Error: "no, " + secret + " ä", State: state, Whole: true},
			{Error: "x", ErrorDescription: secret, State: state, Whole: true}, {Code: secret + "\n"}, {State: secret + "x", Whole: true},
		} {
			wantSilent(t, "the answer", a.Check(answer), secret)
		}
	}
}

func wantSilent(t *testing.T, how string, err error, secret string) {
	t.Helper()
	if e := failureOf(t, err); strings.Contains(everyText(e), secret) || strings.Contains(everyText(e), url.QueryEscape(secret)) {
		t.Errorf("%s: %s", how, e.Error())
	}
}

// What only a person's browser is told is not needed to go on.
func TestARenewalNeedsNothingOfTheAuthorizationURL(t *testing.T) {
	t.Parallel()
	p := newProvider(t, issue("next", ""))
	gone := func(name string) (string, bool) { return "", true }
	c := Config{
		Grant: "authorization_code", ClientID: "c", TokenURL: p.URL, Transport: transport(t), Lookup: gone,
		AuthorizeURL: "https://{env.AUTH}/authorize", RedirectURI: "{env.REDIRECT}",
		AuthorizeParams: []Param{{Name: "login_hint", Value: "{file.hint}"}},
	}
	token, failure := obtain(t, c, &Token{AccessToken: "at", RefreshToken: "rt"})
	must(t, token, failure)
	if _, err := newSource(t, c).Authorize(t.Context(), "state"); err == nil {
		t.Error("an authorization begins without its redirect URI")
	}
}
