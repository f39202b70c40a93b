//go:build linux

package main

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/pulsewheel/pulsewheel/bench/rig"
	"github.com/pulsewheel/pulsewheel/bench/rig/servers"
)

func TestMain(m *testing.M) {
	servers.Register()
	rig.Main()
	os.Exit(m.Run())
}

// cloned clones this repository into a folder of the test's own, where temporary files go, too.
func cloned(t *testing.T) string {
	t.Helper()
	if _, err := exec.LookPath("git"); err != nil {
		t.Skipf("revisions cannot be built: %v", err)
	}
	if out, err := exec.Command("git", "rev-parse", "HEAD").CombinedOutput(); err != nil {
		t.Skipf("this is no git checkout, so there is no revision to build: %s", out)
	}
	dir := t.TempDir()
	t.Setenv("TMPDIR", filepath.Join(dir, "tmp"))
	require.NoError(t, os.Mkdir(os.TempDir(), 0o777))
	repo := filepath.Join(dir, "repo")
	top, err := git(t.Context(), ".", "rev-parse", "--show-toplevel")
	require.NoError(t, err)
	_, err = git(t.Context(), ".", "clone", "--quiet", top, repo)
	require.NoError(t, err)
	return repo
}

// requireUntouched says that nothing is left of a worktree, here or in the repository.
func requireUntouched(t *testing.T, repo string) {
	t.Helper()
	list, err := git(t.Context(), repo, "worktree", "list", "--porcelain")
	require.NoError(t, err)
	require.Equal(t, 1, strings.Count(list, "worktree "), list)
	changed, err := git(t.Context(), repo, "status", "--porcelain")
	require.NoError(t, err)
	require.Empty(t, changed)
	left, err := filepath.Glob(filepath.Join(os.TempDir(), "pulsewheel-against-*"))
	require.NoError(t, err)
	require.Empty(t, left)
}

// The server of a revision is built, started and measured as a role of a program that is not this one.
func TestAgainst(t *testing.T) {
	repo := cloned(t)
	hooked := filepath.Join(repo, ".git", "hooks", "post-checkout")
	require.NoError(t, os.WriteFile(hooked, []byte("#!/bin/sh\nexit 1\n"), 0o755))
	r, err := buildAt(t.Context(), filepath.Join(repo, "server"), "HEAD")
	require.NoError(t, err)
	t.Cleanup(r.remove)
	head, err := git(t.Context(), repo, "rev-parse", "--short", "HEAD")
	require.NoError(t, err)
	assert.Equal(t, "pulsewheel at "+head, r.name)
	assert.Contains(t, r.note, "this tree is "+head)
	assert.FileExists(t, r.program)
	require.NoError(t, r.probe())

	older = r
	t.Cleanup(func() { older = nil })
	at, err := parsePlaces("1")
	require.NoError(t, err)
	all := contenders(at[0])
	last := all[len(all)-1]
	assert.Equal(t, r.name, last.Name)
	p, err := rig.Start(last.Server)
	require.NoError(t, err)
	running, err := os.Readlink(fmt.Sprintf("/proc/%d/exe", p.PID()))
	require.NoError(t, err)
	assert.Equal(t, r.program, running)
	_, err = p.RSS() // it answers
	require.NoError(t, err)
	require.NoError(t, p.Stop())

	r.remove()
	requireUntouched(t, repo)
}

// What is in the way is named, and nothing stays behind.
func TestAgainstRefused(t *testing.T) {
	repo := cloned(t)
	commit := func(name, text string) string {
		t.Helper()
		file := filepath.Join(repo, name)
		if text == "" {
			require.NoError(t, os.RemoveAll(file))
		} else {
			require.NoError(t, os.RemoveAll(filepath.Dir(file)))
			require.NoError(t, os.MkdirAll(filepath.Dir(file), 0o777))
			require.NoError(t, os.WriteFile(file, []byte(text), 0o666))
		}
		for _, args := range [][]string{
			{"add", "--all"},
			{"-c", "user.name=a", "-c", "user.email=a@example.com", "commit", "--quiet", "--message", "for a test"},
		} {
			_, err := git(t.Context(), repo, args...)
			require.NoError(t, err)
		}
		rev, err := git(t.Context(), repo, "rev-parse", "HEAD")
		require.NoError(t, err)
		return rev
	}
	broken := commit("bench/compare/main.go", "package main\n\nfunc main() { nothing() }\n")
	mute := commit("bench/compare/main.go", "package main\n\nfunc main() {}\n")
	without := commit("bench/compare", "")

	for _, c := range []struct{ name, rev, want string }{
		{"unknown", "no-such-tag", "no such commit"},
		{"an option", "--all", "no such commit"},
		{"not in Go", broken, "cannot be built: exit status 1: "},
		{"before there was a command", without, "it has no bench/compare"},
	} {
		t.Run(c.name, func(t *testing.T) {
			_, err := buildAt(t.Context(), repo, c.rev)
			require.ErrorContains(t, err, c.want)
			requireUntouched(t, repo)
		})
	}
	t.Run("another protocol", func(t *testing.T) {
		r, err := buildAt(t.Context(), repo, mute)
		require.NoError(t, err)
		require.ErrorContains(t, r.probe(), "does not speak the protocol")
		r.remove()
		requireUntouched(t, repo)
	})
	t.Run("a shallow clone", func(t *testing.T) {
		shallow := filepath.Join(t.TempDir(), "shallow")
		_, err := git(t.Context(), repo, "clone", "--quiet", "--depth", "1", "file://"+repo, shallow)
		require.NoError(t, err)
		_, err = buildAt(t.Context(), shallow, broken)
		require.ErrorContains(t, err, "git fetch --unshallow")
	})
	t.Run("no repository", func(t *testing.T) {
		_, err := buildAt(t.Context(), t.TempDir(), "HEAD")
		require.ErrorContains(t, err, "in a git checkout only")
	})
	t.Run("interrupted", func(t *testing.T) {
		for _, after := range []time.Duration{0, 5, 20, 60, 100} {
			ctx, cancel := context.WithTimeout(t.Context(), after*time.Millisecond)
			_, err := buildAt(ctx, repo, broken)
			cancel()
			require.Error(t, err)
			requireUntouched(t, repo)
		}
	})
	t.Run("no git", func(t *testing.T) {
		t.Setenv("PATH", t.TempDir())
		_, err := buildAt(t.Context(), repo, "HEAD")
		require.ErrorContains(t, err, "executable file not found")
	})
}

// A signal ends the command, and what it has made for -against is gone.
func TestAgainstInterrupted(t *testing.T) {
	repo := cloned(t)
	program := filepath.Join(os.TempDir(), "compare")
	out, err := exec.Command("go", "build", "-o", program, ".").CombinedOutput()
	require.NoError(t, err, "%s", out)
	cmd := exec.Command(program, "-against", "HEAD", "-only", "echo", "-cells", "1x1x64", "-rounds", "1000000")
	cmd.Dir = repo
	stdout, err := cmd.StdoutPipe()
	require.NoError(t, err)
	require.NoError(t, cmd.Start())
	guard := time.AfterFunc(5*time.Minute, func() { _ = cmd.Process.Kill() })
	defer guard.Stop()
	var said strings.Builder
	for b := make([]byte, 4096); !strings.Contains(said.String(), "### echo"); {
		n, err := stdout.Read(b)
		said.Write(b[:n])
		require.NoError(t, err, said.String())
	}
	require.NoError(t, cmd.Process.Signal(syscall.SIGTERM))
	require.ErrorContains(t, cmd.Wait(), "exit status 1")
	requireUntouched(t, repo)
}
