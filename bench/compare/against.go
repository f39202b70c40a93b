package main

import (
	"bytes"
	"context"
	"debug/buildinfo"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"runtime"
	"runtime/debug"
	"slices"
	"strings"
	"syscall"
	"time"

	"github.com/pulsewheel/pulsewheel/bench/load"
	"github.com/pulsewheel/pulsewheel/bench/rig"
	"github.com/pulsewheel/pulsewheel/bench/rig/servers"
)

// A revision is the program of this folder as it was at another commit: its server is one more
// candidate.
type revision struct {
	name    string // in tables
	program string // the executable
	note    string // a sentence about what is compared with what
	dir     string // temporary, has the program
}

// older is the revision of -against; nil: there is none.
var older *revision

// heads returns the headings of the columns that compare a row with the older revision.
func (r *revision) heads(of ...string) (all []string) {
	if r == nil {
		return nil
	}
	for _, o := range of {
		all = append(all, o+" : "+r.name)
	}
	return all
}

// prepareOlder sets older, after its server has answered. The files that it makes are removed by
// remove, or by a signal that ends the program.
func prepareOlder(rev string) (remove func(), err error) {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	r, err := buildAt(ctx, ".", rev)
	if err == nil {
		if err = r.probe(); err != nil {
			r.remove()
		}
	}
	if err != nil {
		stop()
		return nil, err
	}
	older = r
	done := make(chan struct{})
	go func() {
		select {
		case <-ctx.Done():
			r.remove()
			fmt.Fprintln(os.Stderr, "compare: interrupted")
			os.Exit(1) // the servers end: their standard input is closed
		case <-done:
		}
	}()
	return func() {
		close(done)
		stop()
		r.remove()
	}, nil
}

// buildAt builds this program as it was at a revision of the repository that folder belongs to. The
// worktree is removed before buildAt returns, the executable by revision.remove.
func buildAt(ctx context.Context, folder, rev string) (r *revision, err error) {
	top, err := git(ctx, folder, "rev-parse", "--show-toplevel")
	if err != nil {
		return nil, fmt.Errorf("a revision can be built in a git checkout only: %w", err)
	}
	commit, err := git(ctx, top, "rev-parse", "--verify", "--quiet", strings.TrimLeft(rev, "-")+"^{commit}")
	if err != nil {
		if shallow, _ := git(ctx, top, "rev-parse", "--is-shallow-repository"); shallow == "true" {
			return nil, errors.New("this shallow clone has no such commit: git fetch --unshallow gets the others")
		}
		return nil, fmt.Errorf("this repository has no such commit (%w)", err)
	}
	short, err := git(ctx, top, "rev-parse", "--short", commit)
	if err != nil {
		return nil, err
	}
	dir, err := os.MkdirTemp("", "pulsewheel-against-")
	if err != nil {
		return nil, err
	}
	r = &revision{name: servers.Pulsewheel + " at " + short, program: filepath.Join(dir, "compare"), dir: dir}
	tree := filepath.Join(dir, "tree")
	defer func() {
		if gone := removeTree(top, tree); gone != nil {
			err = errors.Join(err, gone)
		}
		if err != nil {
			r.remove()
			r = nil
		}
	}()
	// A hook of the user's is not for this worktree.
	_, err = git(ctx, top, "-c", "core.hooksPath="+os.DevNull, "worktree", "add", "--quiet", "--detach", tree, commit)
	if err != nil {
		return r, err
	}
	if err = r.build(ctx, tree); err != nil {
		return r, fmt.Errorf("%s cannot be built: %w", short, err)
	}
	r.describe(ctx, top)
	return r, nil
}

// removeTree removes the worktree, whatever state it is in, also after ctx has ended.
func removeTree(top, tree string) error {
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	list, err := git(ctx, top, "worktree", "list", "--porcelain")
	if err != nil || !strings.Contains(list, filepath.Base(filepath.Dir(tree))) {
		return err // it has not come so far
	}
	// Forced twice: git locks a worktree until it is complete.
	_, err = git(ctx, top, "worktree", "remove", "--force", "--force", tree)
	return err
}

// build builds the program in a tree, with the settings of this one.
func (r *revision) build(ctx context.Context, tree string) error {
	if _, err := os.Stat(filepath.Join(tree, "bench", "compare")); err != nil {
		return errors.New("it has no bench/compare")
	}
	// Without -trimpath the name of the worktree would keep the build from being found in the cache.
	args := []string{"build", "-trimpath", "-buildvcs=false", "-o", r.program}
	if info, ok := debug.ReadBuildInfo(); ok {
		for _, s := range info.Settings {
			if slices.Contains([]string{"-race", "-tags", "-gcflags", "-msan", "-asan"}, s.Key) {
				args = append(args, s.Key+"="+s.Value)
			}
		}
	}
	cmd := command(ctx, tree, "go", append(args, "./bench/compare")...)
	cmd.Env = append(cmd.Env, "GOWORK=off")
	out, err := cmd.CombinedOutput()
	if err != nil {
		return failure(ctx, err, out)
	}
	return nil
}

// describe says what is compared with what.
func (r *revision) describe(ctx context.Context, top string) {
	r.note = "- this tree"
	if head, err := git(ctx, top, "rev-parse", "--short", "HEAD"); err == nil {
		r.note += " is " + head
	}
	if changed, err := git(ctx, top, "status", "--porcelain"); err == nil && changed != "" {
		r.note += " with changes that are not committed"
	}
	short := strings.TrimPrefix(r.name, servers.Pulsewheel+" at ")
	if subject, err := git(ctx, top, "log", "-1", "--format=%h %s", short); err == nil {
		r.note += ", next to " + subject
	}
	if info, err := buildinfo.ReadFile(r.program); err == nil && info.GoVersion != runtime.Version() {
		r.note += ", which is built by " + info.GoVersion + ", as its go.mod asks for"
	}
}

// probe sends the server one message and wants it back.
func (r *revision) probe() (err error) {
	s := servers.Server(servers.Pulsewheel, servers.Options{Loops: 1})
	s.Program = r.program
	o := load.Options{Message: message(64), Pongs: true}
	pair, err := rig.StartPair(rig.Candidate{Server: s, Load: o})
	if err == nil {
		_, err = pair.Load.Run(load.Round{Messages: 1})
		err = errors.Join(err, pair.Stop())
	}
	if err != nil {
		return fmt.Errorf("its server does not speak the protocol of this tree's bench/rig: %w", err)
	}
	return nil
}

// remove removes what is left of it. It may be called more than once.
func (r *revision) remove() { _ = os.RemoveAll(r.dir) }

// git returns what git says, without the newline at its end.
func git(ctx context.Context, folder string, args ...string) (string, error) {
	cmd := command(ctx, folder, "git", args...)
	var errs bytes.Buffer
	cmd.Stderr = &errs
	out, err := cmd.Output()
	if err != nil {
		return "", fmt.Errorf("git %s: %w", strings.Join(args, " "), failure(ctx, err, errs.Bytes()))
	}
	return strings.TrimSpace(string(out)), nil
}

// gitPlace are the variables by which git would look elsewhere than in the folder, as in a hook.
var gitPlace = []string{"GIT_DIR", "GIT_WORK_TREE", "GIT_INDEX_FILE"}

// command is a program that is interrupted, not killed, when ctx ends, so that it can clean up.
func command(ctx context.Context, folder, name string, args ...string) *exec.Cmd {
	cmd := exec.CommandContext(ctx, name, args...)
	cmd.Dir = folder
	cmd.Env = slices.DeleteFunc(os.Environ(), func(v string) bool {
		name, _, _ := strings.Cut(v, "=")
		return slices.Contains(gitPlace, name)
	})
	cmd.Cancel = func() error { return cmd.Process.Signal(os.Interrupt) }
	cmd.WaitDelay = 10 * time.Second
	return cmd
}

// failure is why a program failed, with what it said.
func failure(ctx context.Context, err error, said []byte) error {
	if ctx.Err() != nil {
		return errors.New("interrupted")
	}
	if text := bytes.TrimSpace(said); len(text) > 0 {
		return fmt.Errorf("%w: %s", err, text)
	}
	return err
}
