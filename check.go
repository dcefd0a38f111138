package injecttoken

import (
	"cmp"
	"fmt"
	"maps"
	"regexp"
	"slices"
	"strings"
	"time"

	"github.com/caddyserver/caddy/v2"

	"github.com/caddytoken/inject-token/tokensource"
)

// mistake is something wrong with one option. The option's name tells the
// Caddyfile adapter which line to show.
type mistake struct {
	option string
	text   string
}

func (m *mistake) Error() string { return m.text }

func wrong(option, format string, args ...any) *mistake {
	return &mistake{option: option, text: option + ": " + fmt.Sprintf(format, args...)}
}

var (
	sourceName   = regexp.MustCompile(`^[a-z0-9][a-z0-9_-]*$`)
	exposedName  = regexp.MustCompile(`^[a-z0-9_]+$`)
	responsePath = regexp.MustCompile(`^[^.\s]+(\.[^.\s]+)*$`)
)

// checkSourceName is strict, because storages fold case and separate by
// slashes.
func checkSourceName(name string) *mistake {
	if !sourceName.MatchString(name) {
		return &mistake{option: "source", text: fmt.Sprintf(
			"the name of a token source begins with a lower-case letter or a digit and goes on with such, _ or -; %q does not", name)}
	}
	return nil
}

// check finds what is wrong with a source as far as that can be known without
// its secrets and without a token request. No value of a secret is ever part
// of a mistake.
func (s *Source) check() *mistake {
	for _, check := range []func() *mistake{
		s.checkGrant, s.checkURLs, s.checkClient, s.checkAssertion, s.checkExchange, s.checkAuthorization, s.checkPlaceholders, s.checkRequests, s.checkResponse, s.checkTimes, s.checkTransport,
	} {
		if m := check(); m != nil {
			return m
		}
	}
	return nil
}

// given returns the options of which grants take only some, as far as they
// are written.
func (s *Source) given() map[string]bool {
	return map[string]bool{
		"client_id":       s.ClientID != "",
		"client_secret":   s.ClientSecret != "",
		"client_auth":     s.ClientAuth != "",
		"username":        s.Username != "",
		"password":        s.Password != "",
		"refresh_token":   s.RefreshToken != "",
		"scope":           len(s.Scopes) > 0,
		"scope_separator": s.ScopeSeparator != "",
		"issuer":          s.Issuer != "",
		"authorize_url":   s.AuthorizeURL != "",
		"device_url":      s.DeviceURL != "",
		"revoke_url":      s.RevokeURL != "",
		"redirect_uri":    s.RedirectURI != "",
		"authorize_param": len(s.AuthorizeParams) > 0,
		"pkce":            s.PKCE != "",
		"code_field":      s.CodeField != 0 || s.CodeSeparator != "",

		"private_key":      s.PrivateKey != "",
		"key_id":           s.KeyID != "",
		"signing_alg":      s.SigningAlg != "",
		"claim":            len(s.Claims) > 0,
		"client_assertion": s.ClientAssertion != "",
		"dpop":             s.DPoP != "",
		"subject_token":    s.SubjectToken != "",
		"actor_token":      s.ActorToken != "",
	}
}

// grantOptions is the order in which mistakes of given options are told.
var grantOptions = []string{
	"client_id", "client_secret", "client_auth", "username", "password", "refresh_token", "scope", "scope_separator",
	"issuer", "authorize_url", "device_url", "revoke_url", "redirect_uri", "authorize_param", "pkce", "code_field",
	"private_key", "key_id", "signing_alg", "claim", "client_assertion", "dpop", "subject_token", "actor_token",
}

func (s *Source) checkGrant() *mistake {
	if s.Grant == "" {
		return wrong("grant", "missing; write one of %s", strings.Join(tokensource.GrantNames(), ", "))
	}
	grant, ok := tokensource.GrantByName(s.Grant)
	if !ok {
		return wrong("grant", "unknown grant %q; %s", s.Grant, didYouMean(s.Grant, tokensource.GrantNames()))
	}
	given := s.given()
	for _, option := range grant.Needs {
		if !given[option] && !s.writesAssertion(option) {
			return wrong(option, "missing; the grant %s needs it", s.Grant)
		}
	}
	for _, option := range grantOptions {
		if given[option] && !slices.Contains(grant.Takes, option) && !slices.Contains(grant.Needs, option) {
			return wrong(option, "the grant %s has no use for it%s", s.Grant, s.insteadOf(option))
		}
	}
	return nil
}

// insteadOf says what to write instead of an option that a grant does not
// take.
func (s *Source) insteadOf(option string) string {
	if s.Grant == "custom" {
		return "; it sends nothing but what is written as param, header or url"
	}
	switch option {
	case "authorize_url", "redirect_uri", "authorize_param", "pkce", "code_field":
		return "; did you mean grant authorization_code?"
	case "device_url":
		return "; did you mean grant device_code?"
	case "subject_token", "actor_token":
		return "; did you mean grant token_exchange?"
	}
	if option == "username" || option == "password" {
		return "; did you mean grant password?"
	}
	if option == "refresh_token" {
		return "; did you mean grant refresh_token?"
	}
	return ""
}

func (s *Source) checkURLs() *mistake {
	if s.TokenURL == "" && s.Issuer == "" {
		return wrong("token_url", "missing; write the address of the provider's token endpoint%s", s.orIssuer())
	}
	for _, endpoint := range []struct {
		option, url string
		needed      bool
	}{
		{"token_url", s.TokenURL, false},
		{"authorize_url", s.AuthorizeURL, s.Grant == "authorization_code"},
		{"device_url", s.DeviceURL, s.Grant == "device_code"},
		{"revoke_url", s.RevokeURL, false},
	} {
		if endpoint.url == "" {
			if endpoint.needed && s.Issuer == "" {
				return wrong(endpoint.option, "missing; the grant %s needs it, or else issuer", s.Grant)
			}
			continue
		}
		if m := s.checkURL(endpoint.option, endpoint.url); m != nil {
			return m
		}
	}
	if s.Issuer != "" {
		if m := s.checkURL("issuer", s.Issuer); m != nil {
			return m
		}
		if len(tokensource.Placeholders(s.Issuer)) == 0 {
			if err := tokensource.CheckIssuer(s.Issuer, s.InsecureHTTP); err != nil {
				return wrong("issuer", "%v", err)
			}
		}
	}
	if s.TokenRequest != nil && s.TokenRequest.URL != "" {
		return wrong("token_request url", "this belongs into refresh_request; the address of this one is token_url")
	}
	if s.RefreshRequest != nil && s.RefreshRequest.URL != "" {
		return s.checkURL("refresh_request url", s.RefreshRequest.URL)
	}
	return nil
}

// orIssuer is what a grant that takes an issuer needs no token_url for.
func (s *Source) orIssuer() string {
	if grant, _ := tokensource.GrantByName(s.Grant); slices.Contains(grant.Takes, "issuer") {
		return ", or issuer, whose metadata have it"
	}
	return ""
}

// checkURL looks at literal addresses; one with a placeholder is looked at
// when it is resolved.
func (s *Source) checkURL(option, text string) *mistake {
	names := tokensource.Placeholders(text)
	for _, name := range names {
		if m := checkPlaceholder(option, name); m != nil {
			return m
		}
	}
	if len(names) > 0 {
		return nil
	}
	if err := tokensource.CheckURL(text, s.InsecureHTTP); err != nil {
		return wrong(option, "%v", err)
	}
	return nil
}

// templated is an option that may hold placeholders.
type templated struct{ option, text string }

// templates returns the options in which what looks like a placeholder must be one.
func (s *Source) templates() []templated {
	templates := []templated{{"client_id", s.ClientID}, {"username", s.Username}, {"redirect_uri", s.RedirectURI}, {"key_id", s.KeyID}}
	for _, claim := range s.Claims {
		templates = append(templates, templated{"claim " + claim.Name, claim.Value})
	}
	for _, p := range s.AuthorizeParams {
		templates = append(templates, templated{"authorize_param " + p.Name, p.Value})
	}
	for _, scope := range s.Scopes {
		templates = append(templates, templated{"scope", scope})
	}
	for _, p := range s.Params {
		templates = append(templates, templated{"param " + p.Name, p.Value}, templated{"param_json " + p.Name, string(p.JSON)})
	}
	add := func(option string, r *TokenRequest) {
		for _, h := range r.Headers {
			templates = append(templates, templated{option + " header " + h.Name, h.Value})
		}
		for _, p := range r.Params {
			templates = append(templates, templated{option + " param " + p.Name, p.Value}, templated{option + " param " + p.Name, string(p.JSON)})
		}
		if r.Body != nil {
			templates = append(templates, templated{option + " body", r.Body.Template})
		}
	}
	if s.TokenRequest != nil {
		add("token_request", s.TokenRequest)
	}
	if s.RefreshRequest != nil {
		add("refresh_request", s.RefreshRequest)
	}
	return templates
}

// checkPlaceholders refuses what looks like a placeholder and is none. In a
// secret braces stand for themselves.
func (s *Source) checkPlaceholders() *mistake {
	for _, t := range s.templates() {
		for _, name := range tokensource.Placeholders(t.text) {
			if strings.HasSuffix(t.option, "_request body") && s.isParameter(strings.TrimSuffix(t.option, " body"), name) {
				continue
			}
			if m := checkPlaceholder(t.option, name); m != nil {
				return m
			}
		}
		if tokensource.HasOpenPlaceholder(t.text) {
			return wrong(t.option, `a brace is not closed, or a quotation mark stands between it and its end; \{ is a brace that means itself`)
		}
	}
	return nil
}

// checkPlaceholder refuses a placeholder that a token request cannot resolve.
// Its name is not shown: it may be part of a secret with braces in it.
func checkPlaceholder(option, name string) *mistake {
	switch {
	case isRuntime(name):
	case strings.HasPrefix(name, tokensource.SourcePlaceholder):
		return checkOtherPlaceholder(option, name)
	case (name == tokensource.RefreshTokenPlaceholder || name == tokensource.AccessTokenPlaceholder) && strings.HasPrefix(option, "refresh_request"):
	case name == tokensource.RefreshTokenPlaceholder, name == tokensource.AccessTokenPlaceholder:
		return wrong(option, "{%s} can be used in refresh_request alone", name)
	case strings.HasSuffix(option, "_request body"):
		return wrong(option, `unknown placeholder in braces; there are the parameters that this request would send by themselves, {env.*}, {file.*} and {source.NAME}, and \{ is a brace that means itself`)
	case strings.HasPrefix(name, "sources."):
		return wrong(option, "did you mean {source.NAME}, the token of another source?")
	case strings.HasPrefix(name, "http."):
		return wrong(option, "a placeholder of a request cannot be used: a token request belongs to no caller's request; there are {env.*} and {file.*}")
	default:
		return wrong(option, `unknown placeholder in braces; there are {env.*} and {file.*}, and \{ is a brace that means itself`)
	}
	return nil
}

func (s *Source) checkResponse() *mistake {
	r := s.TokenResponse
	if r == nil {
		return nil
	}
	for _, f := range []struct{ name, path string }{
		{"access_token", r.AccessToken}, {"refresh_token", r.RefreshToken},
		{"expires_in", r.ExpiresIn}, {"expires_at", r.ExpiresAt}, {"error", r.Error},
	} {
		bare := f.name == "access_token" && f.path == "." // a body that is nothing but a token
		if f.path != "" && !bare && !responsePath.MatchString(f.path) {
			return wrong("token_response "+f.name, "%q is not a path such as data.token", f.path)
		}
	}
	for _, name := range slices.Sorted(maps.Keys(r.Expose)) {
		switch path := r.Expose[name]; {
		case !exposedName.MatchString(name):
			return wrong("token_response expose", "the name %q has other signs than lower-case letters, digits and _", name)
		case !responsePath.MatchString(path):
			return wrong("token_response expose "+name, "%q is not a path such as data.token", path)
		case path == cmp.Or(r.AccessToken, "access_token"), path == cmp.Or(r.RefreshToken, "refresh_token"):
			return wrong("token_response expose "+name, "a token is not exposed; in the format of a header field {token} stands for it")
		}
	}
	if _, ok := expiresInUnits[r.ExpiresInUnit]; !ok {
		return wrong("token_response expires_in", "unknown unit %q; there are s, ms, m and h", r.ExpiresInUnit)
	}
	if !slices.Contains([]string{"", "unix", "unix_ms", "rfc3339"}, r.ExpiresAtFormat) {
		return wrong("token_response expires_at", "unknown format %q; there are unix, unix_ms and rfc3339", r.ExpiresAtFormat)
	}
	return nil
}

func (s *Source) checkTimes() *mistake {
	switch {
	case s.DefaultLifetime < 0:
		return wrong("default_lifetime", "this must be more than 0")
	case s.DefaultLifetime != 0 && s.DefaultLifetime < caddy.Duration(time.Second):
		return wrong("default_lifetime", "this must be a second or more")
	case s.Timeout < 0:
		return wrong("timeout", "this must be more than 0")
	case s.RefreshAt != 0 && !(s.RefreshAt >= 1 && s.RefreshAt <= 99):
		return wrong("refresh_at", "this is a percentage of the lifetime from 1%% to 99%%")
	}
	return nil
}

func (s *Source) checkTransport() *mistake {
	if s.Transport != nil && s.Transport.ProxyProtocol != "" {
		return wrong("transport", "proxy_protocol tells an upstream who the caller is; a token request has none")
	}
	return nil
}
