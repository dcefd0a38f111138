package caddy_test

import (
	"net/http"
	"net/url"
	"strings"
)

// What the client and the person are known by. Each secret holds what every
// encoding writes in its own way.
const (
	shapeClient   = "client 7/ä&x"
	shapeSecret   = `s3cret-of-more-than-32-bytes:"+/=&<> \%é{x}?#'`
	shapeUser     = "jöe & söhne@example.org"
	shapePassword = `p4ss "+/=&<>:%2F\u0041;é`
	shapeKey      = `key-"0123:=&+/ ~'`
	shapeReady    = "a.ready-assertion+/=1"
	shapeSubject  = "subject-token+/=&1"
	shapeActor    = "actor-token+/=&1"
	shapeIssuer   = "https://issuer.example.org/x?y"
	shapeAgent    = "caddy-inject-token"
)

// shapeFiles are the files that hold them, in the folder of Caddy.
var shapeFiles = map[string]string{
	"client-secret": shapeSecret, "password": shapePassword, "key": shapeKey, "ready": shapeReady, "subject": shapeSubject, "wrong": "wrong-secret-of-more-than-32-bytes-0123456789",
}

// choice is one value of an axis: what one writes into the Caddyfile for it, and
// what the provider gets to see of that. Either may be nil.
type choice struct {
	name  string
	write func(s *shape, c *shapeText)
	want  func(s *shape, w *wanted)
}

// property is an axis of the token request.
type property struct {
	name    string
	choices []choice
}

// requestProperties are in the order in which they make a request: the standard
// parameters first, and then what is changed of them.
var requestProperties []property

func init() { // a variable that refers to its functions cannot refer to itself
	requestProperties = []property{
		{"method", []choice{
			{"POST", nil, func(_ *shape, w *wanted) { w.method = http.MethodPost }},
			{"GET", func(_ *shape, c *shapeText) { c.tokenForm = "GET" }, func(_ *shape, w *wanted) { w.method = http.MethodGet }},
		}},
		{"encoding", []choice{
			{"form", func(s *shape, c *shapeText) {
				if s.of["method"] == "GET" { // of a POST it is the default
					c.tokenForm += " form"
				}
			}, encoded("form")},
			{"query", func(_ *shape, c *shapeText) { c.tokenForm += " query" }, encoded("query")},
			{"json", func(_ *shape, c *shapeText) { c.tokenForm += " json" }, encoded("json")},
			{"body-json", writesBody, writtenOut("body-json")},
			{"body-xml", writesBody, writtenOut("body-xml")},
			{"body-form", writesBody, writtenOut("body-form")},
			{"body-text", writesBody, writtenOut("body-text")},
		}},
		{"grant", []choice{
			{"client_credentials", nil, begins("client_credentials", nil)},
			{"password", lines("username {env.SHAPE_USER}", "password {file.{{dir}}/password}"),
				begins("password", url.Values{"username": {shapeUser}, "password": {shapePassword}})},
			{"refresh_token", func(s *shape, c *shapeText) { c.option("refresh_token {file.{{dir}}/seed-" + s.name + "}") }, begins("", nil)},
			{"custom", lines("param login {env.SHAPE_USER}", "param pass {file.{{dir}}/password}"),
				func(_ *shape, w *wanted) { w.set("login", shapeUser, "pass", shapePassword) }},
			{"jwt_bearer", nil, func(s *shape, w *wanted) {
				begins("urn:ietf:params:oauth:grant-type:jwt-bearer", nil)(s, w)
				if !w.refresh {
					w.sign("assertion")
				}
			}},
			{"token_exchange", lines("subject_token {file.{{dir}}/subject} jwt", "actor_token {env.SHAPE_ACTOR} urn:example:token"),
				begins("urn:ietf:params:oauth:grant-type:token-exchange", url.Values{
					"subject_token": {shapeSubject}, "subject_token_type": {"urn:ietf:params:oauth:token-type:jwt"},
					"actor_token": {shapeActor}, "actor_token_type": {"urn:example:token"},
				})},
		}},
		{"auth", []choice{
			{"basic", asShapeClient("client_secret_basic"), basicHeader(url.QueryEscape)},
			{"raw", asShapeClient("client_secret_basic raw"), basicHeader(func(s string) string { return s })},
			{"post", asShapeClient("client_secret_post"), func(_ *shape, w *wanted) { w.set("client_id", shapeClient, "client_secret", shapeSecret) }},
			{"query", asShapeClient("client_secret_query"), func(_ *shape, w *wanted) {
				w.query["client_id"], w.query["client_secret"] = []string{shapeClient}, []string{shapeSecret}
			}},
			{"none", func(s *shape, c *shapeText) {
				if s.of["grant"] != "custom" {
					c.option("client_id {env.SHAPE_CLIENT}")
				}
			}, func(s *shape, w *wanted) {
				if s.of["grant"] != "custom" {
					w.set("client_id", shapeClient)
				}
			}},
			{"secret_jwt", asShapeClient("client_secret_jwt"), proves(func(w *wanted) {
				w.sign("client_assertion")
				a := w.signed["client_assertion"]
				a.key, a.alg = "secret", "HS256"
				w.signed["client_assertion"] = a
			})},
			{"key_jwt", lines("client_id {env.SHAPE_CLIENT}", "client_auth private_key_jwt"), proves(func(w *wanted) { w.sign("client_assertion") })},
			{"ready", lines("client_id {env.SHAPE_CLIENT}", "client_assertion {file.{{dir}}/ready}"), proves(func(w *wanted) { w.set("client_assertion", shapeReady) })},
		}},
		{"key", keyChoices()},
		{"claims", []choice{
			{"usual", nil, nil},
			{"written", lines("claim aud "+shapeIssuer, "claim role reader", "claim role {env.SHAPE_USER}", "claim sub robot"), func(s *shape, w *wanted) {
				of := "client_assertion"
				if s.of["grant"] == "jwt_bearer" {
					of = "assertion"
				}
				if a, ok := w.signed[of]; ok {
					a.audience = ""
					a.claims["aud"], a.claims["sub"], a.claims["role"] = shapeIssuer, "robot", []any{"reader", shapeUser}
					w.signed[of] = a
				}
			}},
		}},
		{"proof", []choice{
			{"none", nil, nil},
			{"dpop", lines("dpop"), func(_ *shape, w *wanted) { w.proof = "dpop" }},
			{"nonce", lines("dpop EdDSA"), func(_ *shape, w *wanted) { w.proof = "nonce" }},
		}},
		{"scope", []choice{
			{"none", nil, nil},
			{"one", lines("scope api"), scope("api")},
			{"several", lines("scope api offline_access", "scope read(all)"), scope("api offline_access read(all)")},
			{"comma", lines("scope api write:all", "scope_separator ,"), scope("api,write:all")},
		}},
		{"renewal", renewals()},
		{"params", []choice{
			{"plain", nil, nil},
			{"extra", extraLines, func(s *shape, w *wanted) {
				w.set("tenant", "acme & söhne=1")
				if w.refresh {
					w.set("since", "later")
				} else {
					w.set("audience", "https://api.example.org/?x=1")
				}
			}},
			{"replaced", lines("param grant_type urn:example:params:grant-type:own"),
				func(_ *shape, w *wanted) { w.set("grant_type", "urn:example:params:grant-type:own") }},
			{"renamed", lines("param -grant_type", "param grantType own", "param -username", "param -client_id", "param client {env.SHAPE_CLIENT}"),
				func(_ *shape, w *wanted) {
					for _, name := range []string{"grant_type", "username", "client_id"} {
						w.params.Del(name)
						w.query.Del(name)
					}
					w.set("grantType", "own", "client", shapeClient)
				}},
			{"twice", lines("param resource https://one.example.org/a?b", "param resource https://two.example.org"),
				func(_ *shape, w *wanted) {
					w.params["resource"] = []string{"https://one.example.org/a?b", "https://two.example.org"}
				}},
			{"partner", lines("param session <{source.partner}>"), func(_ *shape, w *wanted) { w.set("session", "<"+partnerToken+">") }},
			{"json", lines("param_json device `{\"by\": \"{env.SHAPE_USER}\", \"trusted\": true, \"of\": [1, 2.5, null]}`"),
				func(_ *shape, w *wanted) {
					w.objects["device"] = map[string]any{"by": shapeUser, "trusted": true, "of": []any{1, 2.5, nil}}
				}},
		}},
		{"header", []choice{
			{"none", nil, nil},
			{"partner", func(_ *shape, c *shapeText) {
				c.token = append(c.token, `header X-Session "Session {source.partner}"`)
			}, func(_ *shape, w *wanted) { w.header.Set("X-Session", "Session "+partnerToken) }},
			{"key", func(_ *shape, c *shapeText) { c.token = append(c.token, "header X-Api-Key {file.{{dir}}/key}") },
				field("X-Api-Key", shapeKey)},
			{"other", func(s *shape, c *shapeText) {
				c.token = append(c.token, "header x-stage first")
				if s.refreshes() {
					c.refresh = append(c.refresh, "header X-Stage second", "header X-Again yes")
				}
			}, func(_ *shape, w *wanted) {
				w.header.Set("X-Stage", "first")
				if w.refresh {
					w.header.Set("X-Stage", "second")
					w.header.Set("X-Again", "yes")
				}
			}},
			{"authorization", func(_ *shape, c *shapeText) {
				c.token = append(c.token, `header Authorization "ApiKey {file.{{dir}}/key}"`)
			}, field("Authorization", "ApiKey "+shapeKey)},
			{"standard", func(_ *shape, c *shapeText) {
				c.token = append(c.token, "header Host auth.example.org:8443", `header User-Agent "Legacy/1.0 (x)"`, "header Accept application/vnd.example+json")
			}, func(_ *shape, w *wanted) {
				w.host = "auth.example.org:8443"
				w.header.Set("User-Agent", "Legacy/1.0 (x)")
				w.header.Set("Accept", "application/vnd.example+json")
			}},
		}},
		{"url", []choice{
			{"plain", nil, nil},
			{"query", func(_ *shape, c *shapeText) { c.url += "?api-version=2&for=a%20b" }, func(_ *shape, w *wanted) {
				if strings.HasSuffix(w.endpoint, "/token") {
					w.query["api-version"], w.query["for"] = []string{"2"}, []string{"a b"}
				}
				for name, a := range w.signed {
					if a.audience != "" {
						a.audience += "?api-version=2&for=a%20b"
						w.signed[name] = a
					}
				}
			}},
			{"placeholder", func(_ *shape, c *shapeText) { c.url = strings.Replace(c.url, c.provider, "{env.SHAPE_PROVIDER}", 1) }, nil},
		}},
	}
}

func encoded(encoding string) func(*shape, *wanted) {
	return func(_ *shape, w *wanted) { w.encoding = encoding }
}

// writesBody has the first request's body written out, and a parameter that does not
// stand in it. A refresh is not like that.
func writesBody(s *shape, c *shapeText) {
	c.token = append(c.token, s.want(moment{path: "/x", refresh: s.of["grant"] == "refresh_token"}).bodyLine(s.of["encoding"]), "param unsent x")
}

func writtenOut(encoding string) func(*shape, *wanted) {
	return func(_ *shape, w *wanted) {
		if w.encoding = encoding; w.refresh {
			w.encoding = "form"
		}
	}
}

// begins are the parameters of a grant: its own to begin with, and those of a
// refresh to go on.
func begins(grant string, own url.Values) func(*shape, *wanted) {
	return func(_ *shape, w *wanted) {
		if w.refresh {
			w.set("grant_type", "refresh_token", "refresh_token", w.renews)
			return
		}
		w.set("grant_type", grant)
		for name, values := range own {
			w.params[name] = values
		}
	}
}

// scope is asked for at the beginning. A grant that has no beginning asks each time.
func scope(text string) func(*shape, *wanted) {
	return func(s *shape, w *wanted) {
		if a, ok := w.signed["assertion"]; ok {
			a.claims["scope"] = text
		}
		if !w.refresh || s.of["grant"] == "refresh_token" {
			w.set("scope", text)
		}
	}
}

func lines(options ...string) func(*shape, *shapeText) {
	return func(_ *shape, c *shapeText) { c.option(options...) }
}

func field(name, value string) func(*shape, *wanted) {
	return func(_ *shape, w *wanted) { w.header.Set(name, value) }
}

// extraLines have a parameter of every request, one of the first alone, and one of
// a refresh alone, where a request of that kind is made.
func extraLines(s *shape, c *shapeText) {
	c.option(`param tenant "acme & söhne=1"`)
	if s.of["grant"] != "refresh_token" { // which never makes a first request
		c.token = append(c.token, "param audience https://api.example.org/?x=1")
	}
	if s.refreshes() {
		c.refresh = append(c.refresh, "param since later")
	}
}

func (w *wanted) set(pairs ...string) {
	for i := 0; i < len(pairs); i += 2 {
		w.params.Set(pairs[i], pairs[i+1])
	}
}

// newWanted is the request that RFC 6749 begins with.
func newWanted(m moment) *wanted {
	return &wanted{
		moment: m, endpoint: m.path + "/token",
		query: url.Values{}, params: url.Values{}, objects: map[string]any{}, signed: map[string]signedParam{},
		header: http.Header{"Accept": {"application/json"}, "User-Agent": {shapeAgent}},
	}
}
