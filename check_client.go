package injecttoken

import (
	"slices"
	"strings"

	"github.com/caddytoken/inject-token/tokensource"
)

// clientAuth returns how the client proves itself as far as that is written.
func (s *Source) clientAuth() string {
	if s.ClientAuth != "" {
		return s.ClientAuth
	}
	c := tokensource.Config{Grant: s.Grant, ClientSecret: s.ClientSecret, ClientAssertion: s.ClientAssertion, PrivateKey: s.PrivateKey}
	if s.TokenRequest != nil {
		c.TokenRequest = s.TokenRequest.request()
	}
	if s.RefreshRequest != nil {
		refresh := s.RefreshRequest.request()
		c.RefreshRequest = &refresh
	}
	return c.DefaultClientAuth()
}

func (s *Source) checkClient() *mistake {
	names := tokensource.ClientAuthNames()
	method, known := tokensource.ClientAuthByName(s.clientAuth())
	if !known {
		// Not shown: it may be the secret itself.
		return wrong("client_auth", "unknown method; %s", didYouMean(s.ClientAuth, names))
	}
	given := s.given()
	switch {
	case s.ClientAuth == "none" && s.ClientSecret != "":
		return wrong("client_auth", "none goes without client_secret")
	case s.ClientAuth == "none" && s.ClientAssertion != "":
		return wrong("client_auth", "none goes without client_assertion")
	case len(method.Needs) > 0 && !slices.ContainsFunc(method.Needs, func(option string) bool { return given[option] }):
		return wrong(method.Needs[0], "missing; client_auth %s needs it%s", s.ClientAuth, orOthers(method.Needs[1:]))
	case method.Certificate && !s.hasClientCertificate():
		return wrong("client_auth", "%s proves the client by its certificate; write transport http { tls_client_auth CERTIFICATE-FILE KEY-FILE }", s.ClientAuth)
	case method.Certificate && s.ClientID == "":
		return wrong("client_id", "missing; client_auth %s needs it (RFC 8705, section 2)", s.ClientAuth)
	case s.ClientSecret != "" && s.ClientID == "":
		return wrong("client_id", "missing; client_secret goes with it")
	case s.Grant == "custom" && s.ClientID != "" && s.ClientAuth != "client_secret_basic" && !s.bodyHolds("client_id"):
		return wrong("client_auth", "the grant custom sends client_id and client_secret only as client_secret_basic; write that, or use param, or body")
	case s.ClientSecret != "" && !slices.Contains(method.Needs, "client_secret"):
		return wrong("client_secret", "client_auth %s has no use for it", s.clientAuth())
	case s.ClientAssertion != "" && s.ClientAuth == "" && s.ClientSecret != "":
		return wrong("client_assertion", "client_secret proves the client already; leave one of them out")
	case s.ClientAssertion != "" && s.clientAuth() != "private_key_jwt":
		return wrong("client_assertion", "client_auth %s has no use for it; leave that out, or write private_key_jwt", s.clientAuth())
	case s.ClientAuthRaw && s.ClientAuth != "client_secret_basic":
		return wrong("client_auth", "raw goes with client_secret_basic alone")
	case s.ScopeSeparator != "" && len(s.Scopes) == 0:
		return wrong("scope_separator", "there is no scope that it could separate")
	}
	return nil
}

func orOthers(options []string) string {
	if len(options) == 0 {
		return ""
	}
	return ", or " + strings.Join(options, ", or ")
}

// writesAssertion says whether an option is missing because what it is for is
// written as a parameter.
func (s *Source) writesAssertion(option string) bool {
	params := s.Params
	if s.TokenRequest != nil {
		params = slices.Concat(params, s.TokenRequest.Params)
	}
	return s.Grant == "jwt_bearer" && option == "private_key" &&
		slices.ContainsFunc(params, func(p Param) bool { return p.Name == "assertion" && !p.Omit })
}

// checkAssertion finds what is wrong with what is signed, and with what.
func (s *Source) checkAssertion() *mistake {
	method, _ := tokensource.ClientAuthByName(s.clientAuth())
	byKey := s.PrivateKey != "" && (s.Grant == "jwt_bearer" || s.clientAuth() == "private_key_jwt")
	algs := method.Algs
	if byKey {
		algs = tokensource.SigningAlgs()
	}
	bySecret := s.clientAuth() == "client_secret_jwt"
	switch {
	case s.PrivateKey != "" && !byKey && s.ClientAuth == "":
		return wrong("private_key", "client_secret proves the client already; leave one of them out")
	case s.PrivateKey != "" && !byKey:
		return wrong("private_key", "client_auth %s has no use for it; leave that out, or write private_key_jwt", s.clientAuth())
	case s.PrivateKey != "" && s.ClientAssertion != "" && s.Grant != "jwt_bearer":
		return wrong("client_assertion", "this is a ready assertion, so that private_key has nothing to sign; write one of them")
	case s.clientAuth() == "private_key_jwt" && s.ClientAssertion == "" && s.ClientID == "":
		return wrong("client_id", "missing; it is who the assertion is of")
	}
	for _, option := range []struct {
		name  string
		given bool
	}{{"key_id", s.KeyID != ""}, {"signing_alg", s.SigningAlg != ""}, {"claim", len(s.Claims) > 0}} {
		if option.given && !byKey && !bySecret {
			return wrong(option.name, "nothing is signed here; it goes with private_key, or with client_auth client_secret_jwt")
		}
	}
	if s.SigningAlg != "" && !slices.Contains(algs, s.SigningAlg) {
		return wrong("signing_alg", "%s", unfitAlg(s.SigningAlg, algs))
	}
	for _, claim := range s.Claims {
		if err := tokensource.CheckClaim(claim.Name); err != nil {
			return wrong("claim "+claim.Name, "%v", err)
		}
	}
	if s.DPoP != "" && !slices.Contains(tokensource.SigningAlgs(), s.DPoP) {
		return wrong("dpop", "%s", unfitAlg(s.DPoP, tokensource.SigningAlgs()))
	}
	if literal(s.PrivateKey) {
		if err := tokensource.CheckPrivateKey(s.PrivateKey, s.SigningAlg); err != nil {
			option, text, _ := strings.Cut(err.Error(), ": ")
			return wrong(option, "%s", text)
		}
	}
	return nil
}

// unfitAlg says what is wrong with an algorithm that is none of those that fit.
func unfitAlg(alg string, fitting []string) string {
	sameLetters := func(name string) bool { return strings.EqualFold(name, alg) }
	switch {
	case strings.EqualFold(alg, "none"):
		return "none signs nothing, and proves nothing; " + didYouMean("", fitting)
	case slices.Contains(tokensource.SecretSigningAlgs(), alg):
		return alg + " signs with a shared secret, not with a private key; " + didYouMean("", fitting)
	case slices.Contains(tokensource.SigningAlgs(), alg):
		return alg + " signs with a private key, not with a shared secret; " + didYouMean("", fitting)
	case slices.ContainsFunc(fitting, sameLetters):
		return "unknown algorithm; did you mean " + fitting[slices.IndexFunc(fitting, sameLetters)] + "?"
	}
	return "unknown algorithm; " + didYouMean(alg, fitting)
}

// literal says whether a text is written out, with no placeholder in it.
func literal(text string) bool { return text != "" && len(tokensource.Placeholders(text)) == 0 }

// checkExchange finds what is wrong with the tokens of token_exchange.
func (s *Source) checkExchange() *mistake {
	for _, token := range []struct{ option, token, kind string }{
		{"subject_token", s.SubjectToken, s.SubjectTokenType}, {"actor_token", s.ActorToken, s.ActorTokenType},
	} {
		if err := tokensource.CheckTokenType(token.kind); err != nil {
			return wrong(token.option, "this is no type of a token; %v", err)
		}
		if token.kind != "" && token.token == "" {
			return wrong(token.option, "a type without a token")
		}
	}
	if s.SubjectToken != tokensource.Caller && strings.EqualFold(strings.Trim(s.SubjectToken, "{}"), tokensource.Caller) {
		return wrong("subject_token", "did you mean caller? It is written in small letters, without braces")
	}
	if s.ActorToken == tokensource.Caller {
		return wrong("actor_token", "caller can be the subject_token alone")
	}
	return nil
}
